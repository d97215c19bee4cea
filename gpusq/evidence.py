"""The numbers of an artifact: accuracy by running it, latency measured or predicted, always with conditions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from gpusq.finishing.rows import form_of, variant_of
from gpusq.scoring import accuracy_of

if TYPE_CHECKING:
    from gpusq.artifacts import Artifact
    from gpusq.latency import Timing
    from gpusq.reports import Accuracy, LayerTime, Row
    from gpusq.stages.stage import Context
    from gpusq.targets import Target

BATCHES = (1, 8, 32)
"""Batch sizes of every report."""
SECONDS_PER_TIMING = 2.0
RUNTIMES = ("onnxruntime", "openvino")
BUNDLE_ACCURACY = "ONNX Runtime on the float32 ONNX of the bundle, on this host; the engine itself was not run"


def rows_of(artifact: Artifact, target: Target, context: Context) -> list[Row]:
    """Predicted rows of a model, ONNX file or bundle on `target`, one for each of BATCHES."""
    from gpusq.latency import predict
    from gpusq.stages.layer_files import read_layers, read_workload

    workload, layers = read_workload(artifact), read_layers(artifact)
    base = base_dtype(target)
    shared = _shared_fields(artifact, target, accuracy_of(artifact, context))
    rows = []
    for batch in BATCHES:
        found = predict(workload, layers, target, batch, base)
        latency = {"p50": found.latency_ms, "low": found.low_ms, "high": found.high_ms}
        throughput = 1e3 * batch / found.latency_ms
        rows.append(
            _row(
                shared,
                target,
                batch,
                "predicted",
                latency,
                throughput,
                "gpusq predictor",
                _predicted_conditions(target),
            )
        )
    return rows


def measured_rows(engines: Sequence[Artifact], target: Target, context: Context) -> list[Row]:
    """Measured rows of CPU engines, timed turn by turn in one run; reused where the same run was kept.

    The timings hang beside each engine, under a name made of the conditions and of all engines of the run.
    """
    from gpusq.latency import host_conditions

    conditions = host_conditions()
    conditions.pop("load_average", None)
    name = f"{target.name}-{_hash([conditions, [e.digest for e in engines], BATCHES])}"
    kept = [context.store.reports(e.digest).get(name) for e in engines]
    if not all(kept):
        kept = _measure(engines, name, conditions, context)
    rows = []
    for engine, timings in zip(engines, kept, strict=True):
        shared = _shared_fields(engine, target, accuracy_of(engine, context))
        runtime = engine.read_json("engine.json")["runtime"]
        rows += [_measured_row(shared, target, runtime, timing) for timing in timings or []]
    return rows


def _measure(
    engines: Sequence[Artifact], name: str, conditions: dict[str, Any], context: Context
) -> list[list[dict[str, Any]] | None]:
    from gpusq.measurement import time_engines

    taken: dict[str, list[dict[str, Any]]] = {e.digest: [] for e in engines}
    for index, batch in enumerate(BATCHES):
        context.progress("measure", index, len(BATCHES), f"{len(engines)} CPU engines in turn, batch {batch}")
        for digest, timing in time_engines(engines, batch, seconds=SECONDS_PER_TIMING).items():
            taken[digest].append(_timing_entry(batch, timing, conditions))
    context.progress("measure", len(BATCHES), len(BATCHES), "done")
    with context.store.lock(wait_s=context.wait_s, on_wait=context.on_wait):
        for engine in engines:
            context.store.add_report(engine.digest, name, taken[engine.digest])
    return [taken[e.digest] for e in engines]


def _timing_entry(batch: int, timing: Timing, conditions: dict[str, Any]) -> dict[str, Any]:
    return {
        "batch": batch,
        "latency_ms": {
            "p50": timing.p50_ms,
            "p90": timing.p90_ms,
            "p99": timing.p99_ms,
            "n": timing.n,
            "warmup": timing.warmup,
            "noise_low": min(timing.p50_low_ms, timing.p50_ms),
            "noise_high": max(timing.p50_high_ms, timing.p50_ms),
        },
        "throughput_per_s": timing.throughput_per_s,
        "host": conditions,
        "date": _now(),
    }


def _measured_row(shared: dict[str, Any], target: Target, runtime: str, timing: dict[str, Any]) -> Row:
    host = timing["host"]
    conditions = {
        "device": host["cpu"],
        "threads": host["cores"],
        "libraries": {"gpusq": _version(), **{n: host["libraries"][n] for n in RUNTIMES if n in host["libraries"]}},
        "date": timing["date"],
    }
    return _row(
        shared,
        target,
        timing["batch"],
        "measured",
        timing["latency_ms"],
        timing["throughput_per_s"],
        runtime,
        conditions,
    )


def _row(
    shared: dict[str, Any],
    target: Target,
    batch: int,
    status: str,
    latency: dict[str, Any],
    throughput: float,
    runtime: str,
    conditions: dict[str, Any],
) -> Row:
    from gpusq.reports import Row

    return Row.model_validate(
        {
            **shared,
            "target": target.name,
            "batch": batch,
            "status": status,
            "latency_ms": latency,
            "throughput_per_s": throughput,
            "runtime": runtime,
            "conditions": conditions,
        }
    )


def _shared_fields(artifact: Artifact, target: Target, accuracy: Accuracy | None) -> dict[str, Any]:
    """The fields that all rows of one artifact on one target have in common."""
    from gpusq.reports import compute_of, coverage_of, size_of
    from gpusq.stages.layer_files import read_layers, read_workload

    workload, layers, base = read_workload(artifact), read_layers(artifact), base_dtype(target)
    precision, sparsity = form_of(layers, base)
    if accuracy is not None and artifact.kind == "bundle":
        accuracy = accuracy.model_copy(update={"how": BUNDLE_ACCURACY})
    file_bytes = sum(f.size for f in artifact.manifest.files.values())
    return {
        "artifact": {
            "kind": artifact.kind,
            "digest": artifact.digest,
            "stage": artifact.manifest.stage,
            "variant": variant_of(layers, base),
        },
        "precision": precision,
        "sparsity": sparsity,
        "input_shape": workload.input_shape,
        "accuracy": accuracy,
        "size": size_of(workload, layers, base, file_bytes=file_bytes),
        "compute": compute_of(workload, layers, base),
        "coverage": coverage_of(workload, layers),
    }


def base_dtype(target: Target) -> Any:
    """What a layer that is not quantized runs in: fp16 on a GPU, fp32 on a CPU."""
    return "fp16" if target.is_gpu else "fp32"


def layer_times(artifact: Artifact, target: Target, batch: int) -> list[LayerTime]:
    """Predicted time of every operator of an artifact on `target`."""
    from gpusq.latency import predict
    from gpusq.reports import LayerTime
    from gpusq.stages.layer_files import read_layers, read_workload

    layers, base = read_layers(artifact), base_dtype(target)
    found = predict(read_workload(artifact), layers, target, batch, base)
    variant = variant_of(layers, base)
    return [
        LayerTime(
            name=op.name, us=op.us, bound=op.bound, share=op.share, target=target.name, batch=batch, variant=variant
        )
        for op in found.ops
    ]


def _predicted_conditions(target: Target) -> dict[str, Any]:
    return {
        "device": target.title,
        "power_mode": target.power_mode,
        "libraries": {"gpusq": _version()},
        "date": _now(),
    }


def _version() -> str:
    from gpusq import __version__

    return __version__


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
