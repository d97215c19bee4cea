"""Measure a few GEMMs on the device at hand, the paths and shapes taking turns, for `calibrate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Protocol

from gpusq.errors import EngineError
from gpusq.latency.points import EncoderPoint, GemmPoint, Points
from gpusq.latency.stopwatch import turned
from gpusq.targets import Target

Shape = tuple[int, int, int]
Measure = Callable[[], float]
"""Runs once and returns microseconds."""
Progress = Callable[[str, int, int | None, str], None]

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
TYPICAL_US = 500.0  # of one measurement, for choosing the rounds that a time limit allows


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
) -> Points:
    """Isolated GEMMs of every path that both device and target have, `seconds` for each shape.

    device: None takes the CUDA device at hand. Raises EngineError where there is none, or no path works;
    MissingExtraError without torch.
    """
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
        for path, us in measure_in_turn(works, rounds_for(seconds)).items():
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
    device: Device, questions: Sequence[tuple[str, str, tuple[int, ...]]], *, seconds: float = 1.0
) -> list[EncoderPoint]:
    """Whole encoders (dtype, sparsity, sizes), one after the other; those that the device has not are left out."""
    found = []
    for dtype, sparsity, sizes in questions:
        try:
            work = device.encoder(dtype, sparsity, sizes)
        except EngineError:
            continue
        (us,) = measure_in_turn({"encoder": work}, rounds_for(seconds)).values()
        found.append(EncoderPoint(dtype, sparsity, sizes, us))
    return found


def rounds_for(seconds: float) -> int:
    """Rounds that fit into a time limit, at least LEAST_ROUNDS."""
    return max(LEAST_ROUNDS, min(200, round(seconds * 1e6 / TYPICAL_US)))


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
