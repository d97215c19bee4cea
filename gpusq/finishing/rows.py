"""Measured rows of engines that ran on a device, in the form that reports take."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from gpusq.workload import Layer, Workload

if TYPE_CHECKING:
    from gpusq.artifacts import Artifact
    from gpusq.device_measurement import Measured
    from gpusq.engines.cuda import Device
    from gpusq.reports import Row

GPU_BASE: Literal["fp16"] = "fp16"
LAYERS, WORKLOAD = "layers.json", "workload.json"


def forms(files: Mapping[str, bytes]) -> tuple[tuple[Layer, ...], Workload]:
    """Layer states and operators that travel with an artifact."""
    layers = tuple(Layer(**layer) for layer in json.loads(files[LAYERS]))
    return layers, Workload.from_json(json.loads(files[WORKLOAD]))


def form_of(layers: Sequence[Layer], base: str) -> tuple[str, str]:
    """(precision, sparsity) of the prunable GEMMs: int8 and 2:4 where any layer is."""
    return ("int8" if any(x.int8 for x in layers) else base, "2:4" if any(x.sparse for x in layers) else "dense")


def variant_of(layers: Sequence[Layer], base: str) -> str:
    """The form in one word, as in "sparse-int8" or "dense-fp16"."""
    precision, sparsity = form_of(layers, base)
    return f"{'dense' if sparsity == 'dense' else 'sparse'}-{precision}"


def device_row(
    measured: Measured,
    engine: Artifact,
    device: Device,
    libraries: Mapping[str, str],
    runtime: str,
    date: str,
    wanted_mode: str | None = None,
) -> Row:
    """One row of a sealed engine. libraries: name -> version of what ran it. date: ISO 8601, UTC.

    wanted_mode: the power mode that the target means; where the device did not tell its own, the row says so and is
    compared with no other, since it may have run in any.
    """
    from gpusq.reports import Row, compute_of, coverage_of, size_of
    from gpusq.reports.rows import UNKNOWN_POWER_MODE

    layers, workload = forms({name: engine.read(name) for name in (LAYERS, WORKLOAD)})
    precision, sparsity = form_of(layers, GPU_BASE)
    mode = measured.conditions["power_mode"] or (UNKNOWN_POWER_MODE if wanted_mode else None)
    file_bytes = sum(entry.size for entry in engine.manifest.files.values())
    fields: dict[str, Any] = {
        "artifact": {
            "kind": engine.kind,
            "digest": engine.digest,
            "stage": engine.manifest.stage,
            "variant": variant_of(layers, GPU_BASE),
        },
        "target": engine.manifest.target,
        "batch": measured.batch,
        "status": "measured",
        "latency_ms": _latency(measured),
        "throughput_per_s": max([measured.timing.throughput_per_s, *(t.images_per_s for t in measured.throughput)]),
        "precision": precision,
        "sparsity": sparsity,
        "runtime": runtime,
        "input_shape": workload.input_shape,
        "size": size_of(workload, layers, GPU_BASE, file_bytes=file_bytes),
        "compute": compute_of(workload, layers, GPU_BASE),
        "coverage": coverage_of(workload, layers),
        "conditions": {
            "device": device.name,
            "power_mode": mode,
            "clocks": measured.conditions["clocks"],
            "libraries": dict(libraries),
            "date": date,
            "throttled": measured.conditions["throttled"],
        },
        "note": note_of(measured, wanted_mode),
    }
    return Row.model_validate(fields)


def _latency(measured: Measured) -> dict[str, Any]:
    timing = measured.timing
    return {
        "p50": timing.p50_ms,
        "p90": timing.p90_ms,
        "p99": timing.p99_ms,
        "n": timing.n,
        "warmup": timing.warmup,
        "noise_low": min(timing.p50_low_ms, timing.p50_ms),
        "noise_high": max(timing.p50_high_ms, timing.p50_ms),
    }


def note_of(measured: Measured, wanted_mode: str | None = None) -> str:
    """What the figures of a row do not say: how it was launched, streams, energy, throttling, an unknown power mode."""
    parts = [f"device time of one batch, inputs and outputs on the device, {measured.launched}"]
    parts += [f"{t.images_per_s:.0f} images/s at {_plural(t.streams, 'stream')}" for t in measured.throughput]
    if measured.energy is not None:
        parts.append(f"{measured.energy.millijoules_per_image:.3g} mJ an image ({measured.energy.how})")
    if measured.conditions["throttled"]:
        parts.append(f"throttled: {', '.join(measured.conditions['reasons'])}")
    if wanted_mode and measured.conditions["power_mode"] is None:
        parts.append(f"power mode unknown (nvpmodel did not answer); the target means {wanted_mode}")
    return "; ".join(parts)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
