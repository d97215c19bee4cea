"""Predict the latency of a whole model on a target, with a 90 % interval. Always `predicted`, never a measurement."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gpusq.errors import UsageError
from gpusq.latency.fusion import Kernel, fuse
from gpusq.latency.gemm import BYTES, Gemms, gemm_us, speed_of
from gpusq.targets import Target
from gpusq.workload import Layer, Workload

Bound = Literal["compute", "memory", "launch"]
Path = tuple[str, str]


@dataclass(frozen=True)
class OpPrediction:
    """Predicted time of one operator in microseconds, what bounds it, and its share (0 to 1) of all kernels."""

    name: str
    us: float
    bound: Bound
    share: float


@dataclass(frozen=True)
class Prediction:
    """Latency of one batch in milliseconds, with the 90 % interval low to high.

    precision: "int8" where any layer is INT8, else the float precision. ops: one for each GEMM, attention and
    normalisation; operators that an engine fuses into these have no time of their own.
    """

    latency_ms: float
    low_ms: float
    high_ms: float
    batch: int
    target: str
    precision: str
    ops: tuple[OpPrediction, ...]

    @property
    def throughput_per_s(self) -> float:
        """Images a second; 0 for an empty workload on a target without start-up time."""
        return self.batch * 1e3 / self.latency_ms if self.latency_ms > 0 else 0.0


def predict(
    workload: Workload,
    layers: tuple[Layer, ...],
    target: Target,
    batch: int,
    base_dtype: str = "fp16",
    *,
    int8_attention: bool = False,
) -> Prediction:
    """Latency of `batch` images in one engine on `target`.

    base_dtype: "fp16" or "fp32" for what is neither sparse nor INT8. On a GPU a sparse float layer is fp16; a CPU
    runs fp32 and int8, and gains nothing from 2:4. GEMMs without a Layer run dense in the base precision.
    int8_attention: the products of activations, and what moves between kernels, are INT8 too.
    Raises UsageError for another dtype or a batch below 1.
    """
    _check(batch, base_dtype)
    base = base_dtype if target.is_gpu else "fp32"
    states = {layer.name: layer for layer in layers}
    gemms = {op.name for op in workload.ops if op.kind == "gemm"}
    paths = {name: _path(states.get(name), target, base) for name in gemms}
    kernels = fuse(workload.ops, paths)
    times = _kernel_times(kernels, target, batch, "int8" if int8_attention else base)
    total_us = target.engine.start_us + sum(us for us, _ in times)
    spread = math.exp(_error(kernels, times, target))
    latency_ms = total_us / 1e3
    return Prediction(
        latency_ms=latency_ms,
        low_ms=latency_ms / spread,
        high_ms=latency_ms * spread,
        batch=batch,
        target=target.name,
        precision=_precision(paths, base),
        ops=_op_predictions(kernels, times),
    )


def _check(batch: int, base_dtype: str) -> None:
    if batch < 1:
        raise UsageError("a batch holds at least one image", got=str(batch), do="ask for batch 1 or more")
    if base_dtype not in ("fp16", "fp32"):
        raise UsageError("the base precision is fp16 or fp32", got=repr(base_dtype), do="name one of them")


def _path(layer: Layer | None, target: Target, base: str) -> Path:
    if layer is None:
        return base, "dense"
    sparse = layer.sparse and target.is_gpu
    if layer.int8:
        return "int8", "2:4" if sparse else "dense"
    return ("fp16", "2:4") if sparse else (base, "dense")


def _precision(paths: dict[str, Path], base: str) -> str:
    dtypes = {dtype for dtype, _ in paths.values()}
    if "int8" in dtypes:
        return "int8"
    return "fp16" if dtypes == {"fp16"} else base


def _kernel_times(kernels: list[Kernel], target: Target, batch: int, flow: str) -> list[tuple[float, Bound]]:
    """(microseconds, bound) of each kernel. flow: the dtype of activations between kernels and in attention."""
    times: list[tuple[float, Bound]] = [(0.0, "launch")] * len(kernels)
    by_path: dict[Path, list[int]] = {}
    for index, kernel in enumerate(kernels):
        if kernel.kind == "gemm":
            by_path.setdefault(kernel.path, []).append(index)
        else:
            times[index] = _weightless_time(kernel, target, batch, flow)
    for path, indices in by_path.items():
        for index, time in zip(
            indices, _gemm_times([kernels[i] for i in indices], path, target, batch, flow), strict=True
        ):
            times[index] = time
    return times


def _gemm_times(kernels: list[Kernel], path: Path, target: Target, batch: int, flow: str) -> list[tuple[float, Bound]]:
    """All GEMM kernels of one path at once; activations leave them as `flow`."""
    rows = [
        (op.m * batch, sum(part.n for part in k.ops), op.k, op.count, k.read * batch)
        for k in kernels
        for op in k.ops[:1]
    ]
    m, n, k, count, read = np.maximum(np.array(rows, dtype=np.float64), 1e-9).T
    gemms = Gemms(m, n, k, count, np.minimum(read, count * m * k), np.full_like(m, BYTES[flow]))
    terms = gemm_us(gemms, speed_of(target, *path), target.fit_of(*path))
    engine, rate = target.engine, target.bandwidth_gbs * 1e3
    found: list[tuple[float, Bound]] = []
    for kernel, compute, memory, total in zip(kernels, terms.compute, terms.memory, terms.total, strict=True):
        extra = kernel.extra_read * batch * BYTES[flow] / (rate * engine.memory_efficiency)
        work = float(total) * engine.scale(*path) + extra
        found.append((engine.kernel_us + work, _bound(float(compute), float(memory) + extra, engine.kernel_us)))
    return found


def _weightless_time(kernel: Kernel, target: Target, batch: int, flow: str) -> tuple[float, Bound]:
    engine = target.engine
    elements = (kernel.read + kernel.write + kernel.extra_read) * batch
    memory = elements * BYTES[flow] / (target.bandwidth_gbs * 1e3 * engine.memory_efficiency)
    compute = 2.0 * kernel.macs * batch / (target.peak(flow) * 1e6 * engine.attention_efficiency)
    return engine.kernel_us + max(compute, memory), _bound(compute, memory, engine.kernel_us)


def _bound(compute: float, memory: float, launch: float) -> Bound:
    if launch >= max(compute, memory):
        return "launch"
    return "compute" if compute >= memory else "memory"


def _error(kernels: list[Kernel], times: list[tuple[float, Bound]], target: Target) -> float:
    """Half-width of the interval in ln: the whole-model error, or the GEMMs' own where that is larger."""
    gemms = [
        (us, target.fit_of(*k.path).error_p90) for k, (us, _) in zip(kernels, times, strict=True) if k.kind == "gemm"
    ]
    total = sum(us for us, _ in gemms)
    own = sum(us * error for us, error in gemms) / total if total else 0.0
    return max(target.engine.error_p90, own)


def _op_predictions(kernels: list[Kernel], times: list[tuple[float, Bound]]) -> tuple[OpPrediction, ...]:
    total = sum(us for us, _ in times) or 1.0
    found: list[OpPrediction] = []
    for kernel, (us, bound) in zip(kernels, times, strict=True):
        named = kernel.ops if kernel.kind == "gemm" else kernel.ops[:1]
        width = sum(op.n for op in named) or 1
        for op in named:
            part = us * op.n / width if len(named) > 1 else us
            found.append(OpPrediction(op.name, part, bound, part / total))
    return tuple(found)
