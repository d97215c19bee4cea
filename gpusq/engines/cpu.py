"""Which CPU runtime to ship: both are built and timed in turn in one run, the faster is kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np

from gpusq.engines import onnxruntime_engine, openvino_engine
from gpusq.engines.runner import Runner

RUNTIMES: Mapping[str, ModuleType] = {"openvino": openvino_engine, "onnxruntime": onnxruntime_engine}
PREFERRED = "openvino"
MARGIN = 0.1  # a smaller lead is within the noise of a shared machine


class HasMedian(Protocol):
    """A timing as `gpusq.latency.stopwatch` gives it."""

    @property
    def p50_ms(self) -> float:
        """Median in milliseconds."""
        ...


TimeInterleaved = Callable[[dict[str, Callable[[], object]]], Mapping[str, HasMedian]]


@dataclass(frozen=True)
class CpuChoice:
    """The runtime that was kept, and the medians in milliseconds of all that were timed (empty: nothing was)."""

    runtime: str
    p50_ms: Mapping[str, float]


def choose_cpu(
    onnx_model: bytes,
    directory: Path,
    *,
    sample: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    threads: int,
    time_interleaved: TimeInterleaved | None = None,
) -> CpuChoice:
    """Build the engine into `directory` with the faster runtime; OpenVINO where nothing is timed or it is close.

    sample: a batch [B, C, H, W] float32 to time with. time_interleaved: times named calls in turn, for example
    `gpusq.latency.stopwatch.time_interleaved`. The ratio decides, not the absolute time. Raises EngineError.
    """
    if time_interleaved is None:
        openvino_engine.build(onnx_model, directory)
        return CpuChoice("openvino", {})
    candidates = {name: directory.with_name(f"{directory.name}.{name}") for name in RUNTIMES}
    try:
        runners = {name: _built(name, onnx_model, path, threads) for name, path in candidates.items()}
        timings = time_interleaved({name: _call(runner, sample) for name, runner in runners.items()})
        medians = {name: timings[name].p50_ms for name in runners}
        best = _kept(medians)
        shutil.copytree(candidates[best], directory, dirs_exist_ok=True)
    finally:
        for path in candidates.values():
            shutil.rmtree(path, ignore_errors=True)
    return CpuChoice(best, medians)


def _kept(medians: Mapping[str, float]) -> str:
    """The fastest runtime, but the preferred one unless another beats it by more than MARGIN."""
    best = min(medians, key=lambda name: medians[name])
    return best if medians[best] < (1 - MARGIN) * medians[PREFERRED] else PREFERRED


def load_cpu(runtime: str, directory: Path, threads: int) -> Runner:
    """The runner of an engine directory that `choose_cpu` has written with `runtime`."""
    runner: Runner = RUNTIMES[runtime].load(directory, threads)
    return runner


def _built(name: str, onnx_model: bytes, path: Path, threads: int) -> Runner:
    RUNTIMES[name].build(onnx_model, path)
    return load_cpu(name, path, threads)


def _call(runner: Runner, sample: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Callable[[], object]:
    return lambda: runner.run(sample)
