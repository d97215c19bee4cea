"""Files that a finishing run writes beside its engines: refused before the build where they could not be written."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from gpusq.artifacts import MANIFEST_NAME
from gpusq.errors import StoreError, UsageError


def check_file_place(file: Path, option: str, outs: Sequence[Path]) -> None:
    """Refuse a place for `option`'s file that is a directory, sealed, or not writable. outs: the engines' directories.

    A file in an engine or a bundle would break its seal. Nothing is created. Raises UsageError, and StoreError where
    the file system refuses.
    """
    if file.is_dir():
        raise UsageError(f"{option} names a file", got=f"{file}, a folder", do=f"give {option} {file / 'FILE.json'}")
    folder = file.absolute().parent.resolve()
    above = (folder, *folder.parents)
    sealed = {out.resolve() for out in outs} & {folder / file.name, *above}
    sealed |= {place for place in above if (place / MANIFEST_NAME).is_file()}
    if sealed:
        raise UsageError(
            f"{option} goes outside every engine and bundle: these are sealed, and a further file breaks the seal",
            got=f"{file} in {min(sealed)}",
            do="choose a path beside them",
        )
    if not folder.is_dir():
        raise UsageError(f"the folder of {option} must be there", got=str(folder), do=f"make it: mkdir -p {folder}")
    _try(folder, file, option)


def _try(folder: Path, file: Path, option: str) -> None:
    """By a file without a name: permissions alone do not tell of a read-only file system."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StoreError(
            f"{option} {file} must be writable",
            got=str(error.strerror),
            do="choose another path or mend its permissions",
        ) from error
