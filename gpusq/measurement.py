"""Engines run for real: opened only after every byte was checked, timed turn by turn, scored on images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gpusq.errors import StageOrderError, TamperedArtifactError

if TYPE_CHECKING:
    import numpy as np

    from gpusq.artifacts import Artifact
    from gpusq.engines import Runner
    from gpusq.latency import Timing

WARMUP = 3
MIN_REPEATS = 15


def open_engine(artifact: Artifact, threads: int | None = None) -> Runner:
    """A runner for a sealed CPU engine. Raises TamperedArtifactError before any engine byte is parsed."""
    if artifact.kind != "engine":
        raise StageOrderError("only an engine can be run", got=artifact.kind, do="`gpusq build --target cpu` makes one")
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

    calls = {e.digest: _call(open_engine(e, threads), sample_batch(e, batch)) for e in engines}
    return time_interleaved(calls, warmup=WARMUP, min_repeats=MIN_REPEATS, batch=batch, max_seconds=seconds)


def _call(runner: Runner, images: np.ndarray) -> Any:
    return lambda: runner.run(images)


def bench_engines(
    engines: Sequence[Artifact], batches: tuple[int, ...], threads: int | None, seconds: float
) -> dict[str, Any]:
    """Rows (engine, runtime, batch, percentiles, throughput) and the conditions of the run."""
    from gpusq.latency import host_conditions

    rows = []
    for batch in batches:
        for digest, timing in time_engines(engines, batch, threads, seconds).items():
            engine = next(e for e in engines if e.digest == digest)
            runtime = engine.read_json("engine.json")["runtime"]
            rows.append({"engine": digest, "runtime": runtime, "batch": batch, **asdict(timing)})
    return {"rows": rows, "conditions": host_conditions(), "status": "measured"}
