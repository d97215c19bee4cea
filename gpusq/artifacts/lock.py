"""One writer per store: a kernel lock that a killed owner cannot leave behind, and a note that says who holds it."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gpusq.artifacts.canonical import pretty_json
from gpusq.artifacts.durable import replace_file, writing
from gpusq.errors import StoreBusyError

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK_FILE = "lock"
OWNER_FILE = "lock.json"
POLL_S = 0.05


class StoreLock:
    """The lock of one store directory. Re-entrant within a thread, also through another StoreLock on the same path.

    The lock file stays in place when the lock is free; only the kernel's lock on it counts.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock: BaseFileLock | None = None

    @property
    def held(self) -> bool:
        """Whether this thread of this process holds it."""
        return self._lock is not None and self._lock.is_locked

    @contextmanager
    def hold(self, wait_s: float | None, on_wait: Callable[[str], None] | None) -> Iterator[bool]:
        """Hold the lock for the block; yields whether it was taken now (False: this thread had it already).

        Waits without end where wait_s is None. Raises StoreBusyError after wait_s seconds, StoreFullError where the
        file system refuses the lock file. The directory must exist.
        """
        lock = self._file_lock()
        fresh = not lock.is_locked
        with writing(self._root / LOCK_FILE):
            self._acquire(lock, wait_s, on_wait)
        try:
            if fresh:
                self._sign()
            yield fresh
        finally:
            if fresh:
                with suppress(OSError):  # a note about nobody does no harm: it is read only while the lock is held
                    (self._root / OWNER_FILE).unlink(missing_ok=True)
            lock.release()

    def owner(self) -> str:
        """Who holds the lock, as a phrase: "pid N (command) since TIME"; "another process" where that is not known."""
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            note = json.loads((self._root / OWNER_FILE).read_bytes())
            here = note["host"] == socket.gethostname()
            if not here or _alive(int(note["pid"])):
                place = "" if here else f" on {note['host']}"
                return f"pid {int(note['pid'])}{place} ({note['command']}) since {note['since']}"
        return "another process"

    def _file_lock(self) -> BaseFileLock:
        if self._lock is None:
            from filelock import FileLock  # late: reading a store needs no lock

            # A singleton by path, so that two Store objects in one thread do not wait for each other.
            self._lock = FileLock(self._root / LOCK_FILE, is_singleton=True)
        return self._lock

    def _acquire(self, lock: BaseFileLock, wait_s: float | None, on_wait: Callable[[str], None] | None) -> None:
        from filelock import Timeout

        try:
            lock.acquire(timeout=0)
        except Timeout:
            if wait_s == 0:
                raise self._busy(0) from None
        else:
            return
        if on_wait is not None:
            on_wait(f"store {self._root} is in use by {self.owner()}; waiting")
        try:
            lock.acquire(timeout=-1 if wait_s is None else wait_s, poll_interval=POLL_S)
        except Timeout:
            raise self._busy(wait_s or 0) from None

    def _busy(self, wait_s: float) -> StoreBusyError:
        return StoreBusyError(
            f"store {self._root} is in use by {self.owner()}",
            got=f"no turn within {wait_s:g} s",
            do="wait for it to end, stop that process, or use another store",
        )

    def _sign(self) -> None:
        note = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "command": ascii(shlex.join(sys.argv))[1:-1][:200],
            "since": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        }
        # On a full disk the lock must still work: freeing space (gc) needs it. Then the message names nobody.
        with suppress(OSError):
            (self._root / OWNER_FILE).unlink(missing_ok=True)
            replace_file(self._root / OWNER_FILE, pretty_json(note))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, so alive
        return True
    return True
