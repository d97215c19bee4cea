"""Files that enter a key by their content: calibration manifests and signatures."""

from __future__ import annotations

import hashlib
from pathlib import Path

from gpusq.errors import UsageError


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes. Raises UsageError where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read", got=str(error), do="give the path of an existing file") from error
