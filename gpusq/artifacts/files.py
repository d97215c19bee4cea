"""Reading files of a directory that somebody else may have changed: names, links, kinds and hashes are checked.

Every file is opened part by part below a directory handle without following links, so no name leads outside.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO must not wait for a writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NotPlainFileError(OSError):
    """A link, a device or anything else that is not a regular file with one name."""


@dataclass(frozen=True)
class Found:
    """One directory entry of a payload: name relative to the payload, size in bytes, and why it is refused."""

    name: str
    size: int
    refused: str


def why_bad_name(name: str) -> str:
    """Why a payload name is refused; empty where it is fine.

    Fine is a relative path with "/" between parts, no part empty, "." or "..", no control character or backslash.
    """
    try:
        too_long = any(len(part.encode()) > 255 for part in name.split("/"))
    except UnicodeEncodeError:
        return "not valid Unicode"
    if name.startswith("/"):
        return "an absolute path"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "a part that is empty, '.' or '..'"
    if any(ord(char) < 32 or char in "\\\x7f" for char in name):
        return "a control character or a backslash"
    return "a part longer than 255 bytes" if too_long else ""


def why_not_plain(status: os.stat_result) -> str:
    """Why a file may not be payload: only regular files with exactly one name are; empty where it is fine."""
    if stat.S_ISLNK(status.st_mode):
        return "a symbolic link"
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    return f"a hard link ({status.st_nlink} names for one file)" if status.st_nlink != 1 else ""


def walk_payload(root: Path, prefix: str = "") -> Iterator[Found]:
    """Every entry below root but directories, sorted by name; links are reported and never followed."""
    with os.scandir(root) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        name = prefix + entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from walk_payload(Path(entry.path), name + "/")
            continue
        status = entry.stat(follow_symlinks=False)
        yield Found(name, status.st_size, why_bad_name(name) or why_not_plain(status))


@contextmanager
def opened_inside(root: Path, name: str) -> Iterator[int]:
    """A read-only descriptor of a regular file below root, reached without following any link.

    Raises OSError; NotPlainFileError for links, devices and names that lead outside.
    """
    reason = why_bad_name(name)
    if reason:
        raise NotPlainFileError(f"{name!a}: {reason}")
    *folders, last = name.split("/")
    handles = [os.open(root, _DIRECTORY)]
    try:
        for folder in folders:
            handles.append(os.open(folder, _DIRECTORY, dir_fd=handles[-1]))
        handles.append(os.open(last, _FILE, dir_fd=handles[-1]))
        reason = why_not_plain(os.fstat(handles[-1]))
        if reason:
            raise NotPlainFileError(f"{name}: {reason}")
        yield handles[-1]
    finally:
        for handle in reversed(handles):
            os.close(handle)


def read_inside(root: Path, name: str, limit_bytes: int) -> bytes:
    """The bytes of a file below root, at most limit_bytes + 1 of them, so a file past the limit shows as too long."""
    parts: list[bytes] = []
    room = limit_bytes + 1
    with opened_inside(root, name) as handle:
        # One read of the whole file where the system allows it (2 GiB on Linux): no second copy in memory.
        expected = os.fstat(handle).st_size + 1
        while room > 0 and (part := os.read(handle, min(room, expected))):
            parts.append(part)
            room -= len(part)
    return b"".join(parts)


def hash_inside(root: Path, name: str, at_end: Callable[[int], object] | None = None) -> tuple[str, int]:
    """sha256 (hex) and size in bytes of a file below root; at_end is called with the descriptor before it closes."""
    digest, size = hashlib.sha256(), 0
    with opened_inside(root, name) as handle:
        while part := os.read(handle, CHUNK_BYTES):
            digest.update(part)
            size += len(part)
        if at_end is not None:
            at_end(handle)
    return digest.hexdigest(), size
