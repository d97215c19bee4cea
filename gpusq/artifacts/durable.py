"""Writing so that a kill or a power loss leaves either the old state or the new one; refusals become StoreErrors.

The order is always: write, fsync the file, rename, fsync the directory.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gpusq.errors import StoreError, StoreFullError

SPACE_CODES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
REFUSED_CODES = SPACE_CODES | {errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM}
TEMPORARY = ".tmp-"  # prefix of files not yet renamed into place; gc removes what a kill left


def refused_code(error: BaseException) -> int | None:
    """The errno of a write that the file system refused, or None for any other error.

    Libraries written in Rust (safetensors) carry it only as text: "No space left on device (os error 28)".
    """
    code = error.errno if isinstance(error, OSError) else None
    if code is None and (found := re.search(r"\(os error (\d+)\)", str(error))):
        code = int(found.group(1))
    return code if code in REFUSED_CODES else None


def store_full(code: int, path: Path, needed_bytes: int = 0) -> StoreFullError:
    """The error for a refused write: the path, the bytes needed and free, what to do."""
    if code in SPACE_CODES:
        do = f"free some space on the file system of {path}, then run the same command again; finished stages are kept"
    elif code == errno.EIO:
        do = "check the disk (its kernel log), then run the same command again; finished stages are kept"
    else:
        do = "make that directory writable for this user, or choose another store"
    needs = f", {needed_bytes:,} bytes to keep" if needed_bytes else ""
    return StoreFullError(
        f"{path}: the file system refused a write", got=f"{os.strerror(code)}{needs}{_free(path)}", do=do
    )


def _free(path: Path) -> str:
    for place in (path, *path.parents):
        with suppress(OSError):  # only for the message: the nearest place that answers
            return f", {shutil.disk_usage(place).free:,} bytes free"
    return ""


@contextmanager
def writing(path: Path, needed_bytes: int = 0) -> Iterator[None]:
    """Turns OSErrors of the block into StoreFullError (refused writes) or StoreError (all others)."""
    try:
        yield
    except OSError as error:
        code = refused_code(error)
        if code is not None:
            raise store_full(code, path, needed_bytes) from error
        raise StoreError(f"{path}: cannot be written", got=str(error), do="check that path") from error


def sync_directory(path: Path) -> None:
    """fsync a directory, so that the names in it survive a power loss."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_directories(root: Path) -> None:
    """fsync root and every directory below it, deepest first."""
    with os.scandir(root) as entries:
        folders = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    for folder in folders:
        sync_directories(folder)
    sync_directory(root)


def make_directories(path: Path) -> None:
    """mkdir -p, with the new names synced."""
    missing = [place for place in (path, *path.parents) if not place.is_dir()]
    for place in reversed(missing):
        with suppress(FileExistsError):  # another process was quicker
            os.mkdir(place)  # noqa: PTH102  (os.*: one place to inject faults in tests)
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file is where a directory should be", str(place))
        sync_directory(place.parent)


def write_new(path: Path, data: bytes) -> None:
    """Write and fsync a file that must not exist yet. Its mode obeys the umask."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, data: bytes) -> None:
    """Put data at path in one step: readers see the old file or the new one, whole."""
    temporary = path.with_name(TEMPORARY + secrets.token_hex(6))
    try:
        write_new(temporary, data)
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException:
        with suppress(OSError):  # the error that matters is on its way
            temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def move_directory(source: Path, final: Path) -> None:
    """Rename a synced directory to its final name and sync that name; undone where the sync fails."""
    os.rename(source, final)  # noqa: PTH104
    try:
        sync_directory(final.parent)
    except OSError:
        with suppress(OSError):  # else the whole directory stays under its final name, which is whole too
            os.rename(final, source)  # noqa: PTH104
        raise


def remove_tree(path: Path) -> int:
    """Remove a file or directory as far as the file system lets; returns the bytes of what was found (not links')."""
    freed = tree_bytes(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # like rmtree above: what stays is removed the next time
            path.unlink(missing_ok=True)
    return freed - tree_bytes(path)


def tree_bytes(path: Path) -> int:
    """Sum of the sizes of the regular files at and below path, in bytes; 0 where nothing is there."""
    if path.is_symlink() or not path.exists():
        return 0
    if path.is_file():
        return path.stat().st_size
    return sum(
        (Path(folder) / name).stat(follow_symlinks=False).st_size
        for folder, _, names in os.walk(path)
        for name in names
    )
