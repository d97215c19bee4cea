"""Engines run for real: opened only after every byte was checked, timed turn by turn, scored on images."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gpusq.engines.compatibility import is_device_engine
from gpusq.errors import StageOrderError, TamperedArtifactError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from gpusq.artifacts import Artifact
    from gpusq.engines import Runner
    from gpusq.latency import Timing

WARMUP, SLOW_WARMUP = 3, 1
MIN_REPEATS, SLOW_MIN_REPEATS = 15, 5
SLOW_CALL_S = 0.5
"""A call that takes longer is repeated less often; the row says how often."""


def open_engine(artifact: Artifact, threads: int | None = None) -> Runner:
    """A runner for a sealed engine: of this CPU, or of the GPU at hand.

    Raises TamperedArtifactError before any engine byte is parsed, EngineError for a GPU engine that does not run here.
    """
    if artifact.kind != "engine":
        raise StageOrderError("only an engine can be run", got=artifact.kind, do="`gpusq build --target cpu` makes one")
    if is_device_engine(artifact):
        from gpusq.device_measurement import open_on_device
        from gpusq.engines.device_runner import DeviceRunner

        engine, machine, gpu = open_on_device(artifact)
        return DeviceRunner(engine, f"{machine.builder} {machine.trt.__version__} on {gpu.device.name}")
    problems = artifact.verify()
    if problems:
        raise TamperedArtifactError(
            f"engine {artifact.path.name} is not what was sealed",
            got="; ".join(problems[:3]),
            do="remove its directory and run the same command again to rebuild it",
        )
    from gpusq.engines import cpu_threads, load_cpu

    return load_cpu(artifact.read_json("engine.json")["runtime"], artifact.path, threads or cpu_threads())


def sample_batch(artifact: Artifact, batch: int) -> np.ndarray:
    """`batch` real images [batch, C, H, W] float32, repeated from the artifact's own samples."""
    import numpy as np
    from safetensors.numpy import load

    images = load(artifact.read("samples.safetensors"))["pixel_values"]
    return np.ascontiguousarray(np.resize(images, (batch, *images.shape[1:])))


def time_engines(
    engines: Sequence[Artifact], batch: int, threads: int | None = None, seconds: float = 3.0
) -> dict[str, Timing]:
    """Digest -> Timing of one batch, the engines taking turns in one run so that their ratio is fair."""
    from gpusq.latency import time_interleaved

    calls: dict[str, Callable[[], object]] = {
        e.digest: _call(open_engine(e, threads), sample_batch(e, batch)) for e in engines
    }
    warmup, repeats = _counts(calls)
    return time_interleaved(calls, warmup=warmup, min_repeats=repeats, batch=batch, max_seconds=seconds)


def _call(runner: Runner, images: np.ndarray) -> Callable[[], object]:
    return lambda: runner.run(images)


def _counts(calls: Mapping[str, Callable[[], object]]) -> tuple[int, int]:
    """(warm-up calls, least repeats): fewer where the second call, the first without compilation, is slow."""
    slowest = 0.0
    for call in calls.values():
        call()
        began = time.perf_counter()
        call()
        slowest = max(slowest, time.perf_counter() - began)
    return (SLOW_WARMUP, SLOW_MIN_REPEATS) if slowest > SLOW_CALL_S else (WARMUP, MIN_REPEATS)


def bench_engines(
    engines: Sequence[Artifact], batches: tuple[int, ...], threads: int | None, seconds: float
) -> dict[str, Any]:
    """Rows (engine, runtime, batch, percentiles, throughput) and the conditions of the run.

    threads: of CPU engines. Raises UsageError for engines of a GPU and of a CPU in one run.
    """
    from gpusq.latency import host_conditions

    if any(map(is_device_engine, engines)):
        if not all(map(is_device_engine, engines)):
            raise UsageError("engines that are timed in turn run on one device", got="a GPU engine and a CPU engine")
        from gpusq.device_measurement import bench_on_device

        return bench_on_device(engines, batches, seconds)
    rows = []
    for batch in batches:
        for digest, timing in time_engines(engines, batch, threads, seconds).items():
            engine = next(e for e in engines if e.digest == digest)
            runtime = engine.read_json("engine.json")["runtime"]
            rows.append({"engine": digest, "runtime": runtime, "batch": batch, **asdict(timing)})
    return {"rows": rows, "conditions": host_conditions(), "status": "measured"}
