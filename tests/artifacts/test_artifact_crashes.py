"""Kills, refused writes at every call, and many writers: the store is whole after each, and the next run goes on."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gpusq.artifacts import Store
from gpusq.errors import GpusqError, StoreBusyError, StoreError, StoreFullError

DRIVER = Path(__file__).with_name("crash_driver.py")


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: hundreds of stores are synced here, and kills do not reach the disk."""
    if not os.access("/dev/shm", os.W_OK):  # noqa: S108
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


def drive(mode: str, root: Path) -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(DRIVER), mode, str(root)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_kill_before_and_after_every_system_call_of_a_publish(tmp_path: Path) -> None:
    points = drive("every_point", tmp_path)
    assert points["before"] >= 40
    assert points["after"] >= 40


def test_kill_at_forty_random_times(tmp_path: Path) -> None:
    assert drive("random_times", tmp_path) == {"killed": 40}


def test_lock_of_a_killed_owner_is_free_though_its_worker_lives(tmp_path: Path) -> None:
    assert drive("orphan", tmp_path) == {"free": True}


def test_six_writers_build_each_key_once(tmp_path: Path) -> None:
    found = drive("crowd", tmp_path)
    assert found["codes"] == [0] * 6
    assert found["built"] == [str(seed) for seed in range(8)]


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of tmp_path/store."""
    command = [sys.executable, str(DRIVER), "hold", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_second_writer_waits_and_says_for_whom(owner: subprocess.Popen[str], store: Store) -> None:
    said: list[str] = []
    named = rf"in use by pid {owner.pid} \(.*crash_driver.py hold .*\) since \d{{4}}-"
    with pytest.raises(StoreBusyError, match=named), store.lock(wait_s=0.1, on_wait=said.append):
        pass
    assert len(said) == 1
    assert re.search(named + ".*; waiting$", said[0])
    with pytest.raises(StoreBusyError, match="within 0 s"), store.lock(wait_s=0, on_wait=said.append):
        pass
    assert len(said) == 1
    assert len(list((store.root / "staging").iterdir())) == 1  # the owner's work was not touched
    assert store.find("0" * 64) is None  # readers do not wait


def test_waiting_ends_when_the_owner_is_done(owner: subprocess.Popen[str], store: Store) -> None:
    def finish(_: str) -> None:
        assert owner.stdin is not None
        owner.stdin.close()

    with store.lock(wait_s=30, on_wait=finish):
        assert owner.wait(timeout=30) == 0


def test_killed_owner_leaves_no_lock_and_its_staging_is_removed(owner: subprocess.Popen[str], store: Store) -> None:
    owner.kill()
    owner.wait()
    assert (store.root / "lock.json").exists()  # the dead owner's note
    with store.lock(wait_s=0):
        assert list((store.root / "staging").iterdir()) == []
        assert json.loads((store.root / "lock.json").read_text())["pid"] == os.getpid()
    assert not (store.root / "lock.json").exists()


@pytest.mark.parametrize("note", ["", "{", "[]", '{"pid": 1}', '{"pid": "x", "host": "h", "command": "c"}'])
def test_unreadable_note_names_nobody(note: str, owner: subprocess.Popen[str], store: Store) -> None:
    (store.root / "lock.json").write_text(note)
    with pytest.raises(StoreBusyError, match="in use by another process"), store.lock(wait_s=0):
        pass


def test_lock_is_reentrant_also_through_another_store(store: Store, make: Callable[..., Any]) -> None:
    with store.lock(), store.lock(), Store(store.root).lock(wait_s=0):
        first = make(1)
        with store.staging("0" * 64) as outer, store.lock():
            make(2)
            assert outer.is_dir()  # taking the lock again cleans nothing
    with store.lock(wait_s=0):
        assert first.verify() == []


def test_threads_exclude_each_other(store: Store) -> None:
    refused: list[type] = []

    def other() -> None:
        try:
            with Store(store.root).lock(wait_s=0):
                refused.append(type(None))
        except GpusqError as error:
            refused.append(type(error))

    with store.lock():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert refused == [StoreBusyError]


class Faults:
    """Makes writing calls of the os module fail: the k-th, or the k-th and all after it."""

    def __init__(self, at: int, code: int, lasting: bool = False) -> None:
        self.at, self.code, self.lasting, self.calls, self.fired = at, code, lasting, 0, False

    def hit(self, name: str, args: tuple[Any, ...]) -> bool:
        if name == "open" and not args[1] & os.O_CREAT:
            return False
        self.calls += 1
        now = self.calls - 1 == self.at or (self.lasting and self.calls > self.at)
        self.fired |= now
        return now

    @contextmanager
    def active(self) -> Iterator[Faults]:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("open", "write", "fsync", "mkdir", "rename", "replace"):
                patch.setattr(os, name, self._wrapped(name, getattr(os, name)))
            yield self

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            if self.hit(name, args):
                raise OSError(self.code, os.strerror(self.code))
            return real(*args, **named)

        return call


CODES = [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES]


@pytest.mark.parametrize("code", CODES, ids=[errno.errorcode[code] for code in CODES])
def test_refused_write_at_every_call_of_a_publish(
    code: int, store: Store, make: Any, fields: Any, fill: Any, payload: dict[str, bytes]
) -> None:
    old = make(99)
    for at in range(1000):
        given = fields(params={"seed": at})
        with store.staging(given["key"]) as staging:
            fill(staging, payload)
            with Faults(at, code).active() as faults:
                error = caught(store, staging, given)
            if not faults.fired:
                break
            assert type(error) is StoreFullError
            assert str(store.root) in error.what
            assert os.strerror(code) in error.got
            assert error.do
            assert store.artifacts() == [old]
            assert store.find(given["key"]) is None
            again = store.publish(staging, **given)  # the payload is still staged, so trying again works
        assert store.verify_all() == {a.path.name: [] for a in (old, again)}
        shutil.rmtree(again.path)
    assert error is None
    assert at >= 10


def caught(store: Store, staging: Path, given: dict[str, Any]) -> GpusqError | None:
    try:
        store.publish(staging, **given)
    except GpusqError as error:
        return error
    return None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_disk_that_stays_broken(code: int, store: Store, fields: Any, fill: Any) -> None:
    for at in range(1000):
        given = fields(params={"seed": at})
        with store.staging(given["key"]) as staging:
            fill(staging, {"w": b"1", "d/v": b"2"})
            with Faults(at, code, lasting=True).active() as faults:
                error = caught(store, staging, given)
        assert not any(store.verify_all().values())
        assert list((store.root / "staging").iterdir()) == []
        if not faults.fired:
            break
        assert type(error) is StoreFullError
    assert at >= 9


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_refused_write_at_every_call_from_an_empty_directory_on(code: int, tmp_path: Path) -> None:
    for at in range(1000):
        store = Store(tmp_path / f"store{at}")
        error: GpusqError | None = None
        with Faults(at, code).active() as faults:
            try:
                with store.lock(wait_s=0), store.staging("0" * 64):
                    pass
                store.checkpoint_dir("1" * 64)
                store.add_report("2" * 64, "cpu", [{}])
            except GpusqError as caught_error:
                error = caught_error
        # Only the note of who holds the lock may fail unseen: a full disk must not keep gc from freeing space.
        assert error is None or type(error) is StoreFullError
        store = Store(store.root)
        with store.lock(wait_s=0):
            assert list(store.root.glob("staging/*")) == []
        assert store.reports("2" * 64) in ({}, {"cpu": [{}]})
        if not faults.fired:
            break
    assert at >= 20


def test_gc_works_on_a_full_disk(store: Store) -> None:
    (store.checkpoint_dir("1" * 64) / "w").write_bytes(b"x" * 10)
    with Faults(0, errno.ENOSPC, lasting=True).active(), pytest.raises(StoreFullError, match="free some space"):
        store.add_report("2" * 64, "cpu", [{}])
    with store.lock():
        pass  # the lock file exists from here on
    with Faults(0, errno.ENOSPC, lasting=True).active() as faults:
        faults.hit = lambda name, args: name != "open" or ".tmp-" in str(args[0])  # type: ignore[method-assign]
        assert store.gc(unfinished=True) == 10


def test_power_loss_order_is_file_then_names_then_rename_then_parent(store: Store, make: Any) -> None:
    make(1)
    trace: list[tuple[str, str]] = []

    def watch(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            place = str(Path(f"/proc/self/fd/{args[0]}").readlink()) if name == "fsync" else str(args[0])
            trace.append((name, place))
            return real(*args, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "rename"):
            patch.setattr(os, name, watch(name, getattr(os, name)))
        artifact = make(2)
    renames = [index for index, (name, _) in enumerate(trace) if name == "rename"]
    assert len(renames) == 1
    staged = trace[renames[0]][1]
    synced = [place for name, place in trace[: renames[0]] if name == "fsync" and place.startswith(staged)]
    files = [f"{staged}/{name}" for name in (*sorted(artifact.manifest.files), "artifact.json")]
    assert synced[: len(files)] == files
    assert synced[len(files) :] == [f"{staged}/engine", staged]
    assert trace[renames[0] + 1] == ("fsync", str(store.root / "artifacts"))


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (OSError(errno.ENOSPC, "full"), StoreFullError),
        (RuntimeError("I/O error: No space left on device (os error 28)"), StoreFullError),
        (OSError(errno.EACCES, "denied", "/data/train/x.jpg"), OSError),
        (OSError(errno.EIO, "a data disk"), OSError),
        (RuntimeError("Permission denied (os error 13)"), RuntimeError),
        (ValueError("stage broke"), ValueError),
    ],
)
def test_a_stage_that_fills_the_disk_says_so_and_no_other_error_does(
    error: Exception, seen: type[Exception], store: Store
) -> None:
    with pytest.raises(seen) as info, store.staging("0" * 64):
        raise error
    assert type(info.value) is seen or info.value is error
    assert list((store.root / "staging").iterdir()) == []


def test_refused_write_below_staging_names_it(store: Store) -> None:
    with pytest.raises(StoreFullError, match="staging"), store.staging("0" * 64) as staging:
        raise OSError(errno.EACCES, "denied", str(staging / "w"))


def test_other_failures_are_store_errors(store: Store, fields: Any) -> None:
    with store.staging(fields()["key"]) as staging:
        (staging / "w").touch()
        faults = Faults(0, errno.ENAMETOOLONG, lasting=True)
        with faults.active(), pytest.raises(StoreError, match="cannot be written"):
            store.publish(staging, **fields())
