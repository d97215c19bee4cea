"""Kills publishes for test_artifact_crashes.py, in a process of its own: python crash_driver.py MODE DIR.

Every round forks a child that publishes into a store and is killed with SIGKILL, then looks at the store as the next
process would and finishes the work. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpusq.artifacts import Store, artifact_key
from gpusq.artifacts.durable import TEMPORARY
from gpusq.errors import GpusqError

WATCHED = ("open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir", "close")
PAYLOAD = {"w": b"w" * 50_000, "deep/er/v": b"v" * 3}
BASE = {
    "stage": "Prune",
    "stage_version": 1,
    "parents": (),
    "inputs": {},
    "target": None,
    "toolchain": {},
}


def fields(seed: int) -> dict[str, Any]:
    params = {"seed": seed}
    return {**BASE, "params": params, "kind": "sparse", "facts": {}, "key": artifact_key(params=params, **BASE)}


def publish(store: Store, seed: int) -> str:
    given = fields(seed)
    checkpoint = store.checkpoint_dir(given["key"])
    (checkpoint / "step").write_bytes(b"s")
    with store.staging(given["key"]) as staging:
        for name, data in PAYLOAD.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_bytes(data)
        digest = store.publish(staging, **given).digest
    store.add_report(digest, "cpu", [{"seed": seed}])
    return digest


def in_child(work: Callable[[], object]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException as error:  # noqa: BLE001  (a child of fork must never return)
        os.write(2, repr(error).encode())
        os._exit(1)


def kill_at(point: int, after: bool) -> None:
    """From now on, the point-th watched call is this process's last, before or after it is done."""
    calls = [0]

    def watch(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            calls[0] += 1
            mine = calls[0] - 1 == point
            if mine and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return real(*args, **named)
            finally:
                if mine:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    for name in WATCHED:
        setattr(os, name, watch(getattr(os, name)))


def look_and_finish(root: Path, seed: int, expected: str) -> None:
    """What the next process finds is whole or absent; it can finish at once, with the same result."""
    store = Store(root)
    found = store.find(fields(seed)["key"])
    problems = {name: p for name, p in store.verify_all().items() if p}
    if problems or (found is not None and found.digest != expected):
        raise SystemExit(f"damaged: {problems} {found}")
    with store.lock(wait_s=0):
        pass
    if publish(store, seed) != expected:
        raise SystemExit("another digest after resuming")
    if store.reports(expected) != {"cpu": [{"seed": seed}]}:
        raise SystemExit("report lost")


def no_residue(root: Path) -> None:
    """Nothing is left of the killed but temporary files too young for gc to judge."""
    Store(root).gc()
    left = [*(root / "staging").iterdir(), *(root / "checkpoints").iterdir()]
    left += [path for path in root.iterdir() if path.name == "lock.json"]
    young = [path for path in root.rglob(f"{TEMPORARY}*") if time.time() - path.stat().st_mtime > 600]
    if left or young:
        raise SystemExit(f"residue: {left} {young}")


def every_point(root: Path) -> dict[str, int]:
    expected = publish(Store(root / "whole"), 0)
    points = {False: 0, True: 0}
    for after in points:
        for point in range(10_000):
            place = root / "store"

            def work(point: int = point, after: bool = after, place: Path = place) -> None:
                kill_at(point, after)
                publish(Store(place), 0)

            _, status = os.waitpid(in_child(work), 0)
            look_and_finish(place, 0, expected)
            no_residue(place)
            shutil.rmtree(place)
            if os.WIFEXITED(status):
                if os.WEXITSTATUS(status):
                    raise SystemExit("the child failed by itself")
                break
            points[after] += 1
    return {"before": points[False], "after": points[True]}


def random_times(root: Path) -> dict[str, int]:
    draw = random.Random(7)  # noqa: S311
    expected = {seed: publish(Store(root / "whole"), seed) for seed in range(4)}
    killed = 0
    for _ in range(40):
        child = in_child(lambda: [publish(Store(root / "store"), seed) for _ in range(999) for seed in range(4)])
        time.sleep(draw.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
        for seed, digest in expected.items():
            look_and_finish(root / "store", seed, digest)
        no_residue(root / "store")
        for path in (root / "store/artifacts").iterdir():
            if draw.random() < 0.7:
                shutil.rmtree(path)
    return {"killed": killed}


def orphan(root: Path) -> dict[str, bool]:
    """A worker forked by the owner outlives the owner's SIGKILL; the lock is free all the same."""
    reader, writer = os.pipe()

    def owner() -> None:
        with Store(root / "store").lock():
            worker = in_child(lambda: time.sleep(20))
            os.write(writer, str(worker).encode())
            time.sleep(20)

    child = in_child(owner)
    worker = int(os.read(reader, 20))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        with Store(root / "store").lock(wait_s=2):
            return {"free": True}
    finally:
        os.kill(worker, signal.SIGKILL)


def crowd(root: Path) -> dict[str, Any]:
    """Six writers of the same eight keys, with gc between: each key is built by one of them."""

    def writer(number: int) -> None:
        store = Store(root / "store")
        order = list(range(8))
        random.Random(number).shuffle(order)  # noqa: S311
        for seed in order:
            with store.lock():
                if store.find(fields(seed)["key"]) is None:
                    publish(store, seed)
                    with (root / "built").open("a") as log:
                        log.write(f"{seed}\n")
            if seed == number:
                store.gc()
            if any(store.verify_all().values()):
                raise GpusqError("a torn read")

    children = [in_child(lambda number=number: writer(number)) for number in range(6)]
    codes = [os.waitpid(child, 0)[1] for child in children]
    return {"codes": codes, "built": sorted((root / "built").read_text().split())}


def hold(root: Path) -> dict[str, str]:
    """Hold the lock with something in staging until killed."""
    store = Store(root / "store")
    with store.staging("0" * 64) as staging:
        (staging / "half").write_bytes(b"x")
        sys.stdout.write("held\n")
        sys.stdout.flush()
        sys.stdin.read()
    return {}


if __name__ == "__main__":
    modes = {f.__name__: f for f in (every_point, random_times, orphan, crowd, hold)}
    print(json.dumps(modes[sys.argv[1]](Path(sys.argv[2]))))  # noqa: T201
