"""What one check saw, and the mend."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "absent", "problem"]


@dataclass(frozen=True)
class Finding:
    """what: the thing looked at; got: what was seen; do: the mend, empty where none is needed.

    "absent" is a missing option, "problem" is not. source: addresses of the evidence, where there are any.
    """

    what: str
    state: State
    got: str
    do: str = ""
    source: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "source": list(self.source)}
