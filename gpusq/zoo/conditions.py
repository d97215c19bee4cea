"""What a table of the zoo stands under: which gpusq, when, on what host."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import gpusq


def run_conditions() -> dict[str, Any]:
    """Plain data: gpusq (its version), date (ISO 8601, UTC, to the second) and host (`latency.host_conditions`)."""
    from gpusq.latency import host_conditions

    now = datetime.now(timezone.utc)
    return {"gpusq": gpusq.__version__, "date": f"{now:%Y-%m-%dT%H:%M:%SZ}", "host": host_conditions()}
