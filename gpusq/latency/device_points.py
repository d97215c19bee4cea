"""Measure a few GEMMs on the device at hand, the paths and shapes taking turns, for `calibrate`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from time import perf_counter
from typing import Protocol

from gpusq.errors import EngineError, UsageError
from gpusq.latency.points import EncoderPoint, GemmPoint, Points
from gpusq.latency.stopwatch import turned
from gpusq.targets import Target

Shape = tuple[int, int, int]
Measure = Callable[[], float]
"""Runs once and returns microseconds."""
Progress = Callable[[str, int, int | None, str], None]
Clock = Callable[[], float]
"""The time in seconds from any origin."""

SHAPES: tuple[Shape, ...] = (
    (64, 1024, 1024),
    (208, 768, 768),
    (208, 3072, 768),
    (256, 2048, 8192),
    (1024, 1024, 4096),
    (1584, 768, 3072),
    (1584, 3072, 768),
    (4096, 2048, 2048),
    (6304, 1024, 1024),
    (6304, 4096, 1024),
    (8192, 4096, 4096),
    (16384, 8192, 2048),
)
"""[m, n, k] from a launch to a few milliseconds: encoders at small and large batch, and squares between them."""
PATHS = (
    ("fp16", "dense"),
    ("fp16", "2:4"),
    ("bf16", "dense"),
    ("bf16", "2:4"),
    ("int8", "dense"),
    ("int8", "2:4"),
)
WARMUP, LEAST_ROUNDS = 3, 7
CLOCK_TICK = 1e-6  # seconds: a round that the clock did not see took this long


class Device(Protocol):
    """What measures: `gpusq.latency.cuda_device.CudaDevice`, or a stand-in."""

    def conditions(self) -> dict[str, str]:
        """Device, driver, libraries, clocks: whatever a reader must know."""
        ...

    def gemm(self, dtype: str, sparsity: str, shape: Shape) -> Measure:
        """A measurement of one GEMM, ready to run. Raises EngineError where the device has no such path."""
        ...

    def encoder(self, dtype: str, sparsity: str, sizes: tuple[int, ...]) -> Measure:
        """A measurement of one encoder (layers, width, heads, mlp, tokens, batch). Raises EngineError likewise."""
        ...


def measure_points(
    target: Target,
    *,
    seconds: float = 0.2,
    shapes: Sequence[Shape] = SHAPES,
    paths: Sequence[tuple[str, str]] = PATHS,
    device: Device | None = None,
    progress: Progress | None = None,
    clock: Clock = perf_counter,
) -> Points:
    """Isolated GEMMs of every path that both device and target have, `seconds` for each shape's paths together.

    The warm-up and what the device prepares for a shape come on top; no path is measured less than LEAST_ROUNDS times.
    device: None takes the CUDA device at hand. Raises EngineError where there is none, or no path works; UsageError
    for seconds that are not positive and finite; MissingExtraError without torch.
    """
    _check_seconds(seconds)
    device = device or cuda_device()
    say = progress or _silent
    points: list[GemmPoint] = []
    skipped: dict[str, str] = {}
    wanted = [path for path in paths if "/".join(path) in target.peaks_tops]
    for index, shape in enumerate(shapes):
        say("calibrate", index, len(shapes), "x".join(map(str, shape)))
        works: dict[str, Measure] = {}
        for dtype, sparsity in wanted:
            try:
                works[f"{dtype}/{sparsity}"] = device.gemm(dtype, sparsity, shape)
            except EngineError as error:
                skipped[f"{dtype}/{sparsity}"] = error.got or error.what
        for path, us in measure_for(works, seconds, clock).items():
            dtype, _, sparsity = path.partition("/")
            points.append(GemmPoint(dtype, sparsity, *shape, us))
    say("calibrate", len(shapes), len(shapes), "done")
    if not points:
        got = "; ".join(f"{path}: {reason}" for path, reason in skipped.items()) or "no path"
        raise EngineError("calibrate needs a path that runs on this device", got=got, do="give --csv FILE instead")
    notes = {f"skipped {path}": reason for path, reason in skipped.items()}
    conditions = {**device.conditions(), **notes}
    return Points(tuple(points), (), f"this device: {conditions.get('device', 'unnamed')}", "", conditions)


def measure_encoders(
    device: Device,
    questions: Sequence[tuple[str, str, tuple[int, ...]]],
    *,
    seconds: float = 1.0,
    clock: Clock = perf_counter,
) -> list[EncoderPoint]:
    """Whole encoders (dtype, sparsity, sizes), `seconds` each; those that the device has not are left out."""
    _check_seconds(seconds)
    found = []
    for dtype, sparsity, sizes in questions:
        try:
            work = device.encoder(dtype, sparsity, sizes)
        except EngineError:
            continue
        (us,) = measure_for({"encoder": work}, seconds, clock).values()
        found.append(EncoderPoint(dtype, sparsity, sizes, us))
    return found


def measure_for(works: Mapping[str, Measure], seconds: float, clock: Clock = perf_counter) -> dict[str, float]:
    """Median microseconds of each work after about `seconds` of rounds, at least LEAST_ROUNDS of them.

    The rounds of the warm-up tell how long one takes. clock: seconds, as they pass outside; a work returns the time of
    one call but may make many.
    """
    took = []
    for _ in range(WARMUP):
        begun = clock()
        measure_in_turn(works, rounds=1, warmup=0)
        took.append(clock() - begun)
    return measure_in_turn(works, rounds_for(seconds, median(took)), warmup=0)


def rounds_for(seconds: float, one_round: float) -> int:
    """Rounds of `one_round` seconds that fit into `seconds`, at least LEAST_ROUNDS."""
    return max(LEAST_ROUNDS, math.floor(seconds / max(one_round, CLOCK_TICK)))


def _check_seconds(seconds: float) -> None:
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError("a measuring time is a positive number of seconds", got=str(seconds), do="give one, as 0.2")


def measure_in_turn(works: Mapping[str, Measure], rounds: int, warmup: int = WARMUP) -> dict[str, float]:
    """Median microseconds of each work; one round makes each once, so that drift falls on all alike."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    names = list(works)
    for index in range(warmup + rounds if names else 0):
        for name in turned(names, index):
            us = works[name]()
            if index >= warmup:
                taken[name].append(us)
    return {name: median(times) for name, times in taken.items()}


def cuda_device() -> Device:
    """The CUDA device at hand. Raises MissingExtraError, EngineError."""
    from gpusq.latency.cuda_device import CudaDevice

    return CudaDevice()


def _silent(what: str, done: int, total: int | None, note: str) -> None:
    """No progress is shown."""
