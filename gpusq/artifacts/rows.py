"""Report rows beside artifacts: one JSON file per name, replaced whole. They are evidence, not part of a seal."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpusq.artifacts.canonical import pretty_json
from gpusq.artifacts.durable import TEMPORARY, make_directories, replace_file, writing
from gpusq.artifacts.files import read_inside, why_bad_name
from gpusq.artifacts.layout import names_in
from gpusq.errors import ArtifactError

REPORT_LIMIT_BYTES = 64 << 20
ABANDONED_S = 600.0  # reports are written without the lock, so a young temporary file may be alive


def encoded(name: str, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The bytes of a report file. Raises ArtifactError for an unsafe name or a row that is not JSON."""
    reason = "a '/'" if "/" in name else why_bad_name(name) or why_bad_name(f"{name}.json")
    if reason or name.startswith("."):
        raise ArtifactError("expected a report name that is one plain file name", got=f"{name!a} ({reason})")
    return pretty_json(list(rows), where=f"report {name}")


def write(folder: Path, name: str, data: bytes) -> Path:
    """Put a report at folder/<name>.json in one step. Raises StoreFullError."""
    path = folder / f"{name}.json"
    with writing(path, needed_bytes=len(data)):
        make_directories(folder)
        replace_file(path, data)
    return path


def read_all(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Report name -> rows. Raises ArtifactError for a file that is not a list of objects."""
    names = [name for name in names_in(folder) if name.endswith(".json") and not name.startswith(".")]
    return {name.removesuffix(".json"): _read(folder, name) for name in names}


def _read(folder: Path, name: str) -> list[dict[str, Any]]:
    try:
        rows = json.loads(read_inside(folder, name, REPORT_LIMIT_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(folder / name, str(error)) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _refused(folder / name, "other JSON")
    return rows


def _refused(path: Path, got: str) -> ArtifactError:
    return ArtifactError(f"{path}: expected a list of report rows", got=got, do="remove that file and measure again")


def leftovers(folder: Path) -> list[Path]:
    """Files that a killed write left below the reports folder."""
    return [path for name in names_in(folder) for path in abandoned(folder / name)]


def abandoned(folder: Path) -> list[Path]:
    """Temporary files in a folder that nobody can still be about to rename: older than ABANDONED_S."""
    oldest_s = time.time() - ABANDONED_S
    paths = [folder / name for name in names_in(folder) if name.startswith(TEMPORARY)]
    return [path for path in paths if path.exists() and path.stat().st_mtime < oldest_s]
