"""Time of each kernel of an engine: GEMMs by their path's fit, the rest by traffic and attention rate; plus launch."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from gpusq.latency.fusion import Kernel
from gpusq.latency.gemm import BYTES, Gemms, gemm_us, speed_of, weight_bytes
from gpusq.latency.interval import half_widths
from gpusq.targets import Fit, Target
from gpusq.workload import Op

Bound = Literal["compute", "memory", "launch"]
Path = tuple[str, str]
# Sequences are padded to tiles of this many rows and columns.
ATTENTION_TILE = 64
# Query rows that one unit works on: fused kernels give it a whole head up to this length.
ATTENTION_ROWS = 512
# A convolution with so few outputs a group runs on the plain cores, one pass over its image.
DEPTHWISE_OUTPUTS = 4


class KernelTime(NamedTuple):
    """Microseconds of one kernel in the graph, what bounds it, half-width of its 90 % interval in ln, and whether its
    efficiencies were only scaled by peak."""

    us: float
    bound: Bound
    ln_error: float
    scaled: bool = False


def kernel_times(kernels: list[Kernel], target: Target, batch: int, base: str, flow: str) -> list[KernelTime]:
    """One for each kernel, in order. base: the float dtype; flow: that of activations between kernels."""
    times: list[KernelTime] = [KernelTime(0.0, "launch", 0.0)] * len(kernels)
    by_path: dict[Path, list[int]] = {}
    for index, kernel in enumerate(kernels):
        if kernel.kind == "gemm" and not _is_depthwise(kernel.ops[0]):
            by_path.setdefault(kernel.path, []).append(index)
        else:
            times[index] = _light_time(kernel, target, batch, base, flow)
    stored = stored_bytes(kernels)
    for path, indices in by_path.items():
        found = _gemm_times([kernels[i] for i in indices], path, target, batch, flow, stored)
        for index, time in zip(indices, found, strict=True):
            times[index] = time
    return times


def stored_bytes(kernels: list[Kernel]) -> float:
    """Bytes of all weights as their kernels read them."""
    gemms = [(kernel.path, op) for kernel in kernels if kernel.kind == "gemm" for op in kernel.ops]
    return sum(op.n * op.k * op.count * weight_bytes(*path) for path, op in gemms)


def bound_of(compute: float, memory: float, launch: float) -> Bound:
    """What takes longest; launch wins ties."""
    if launch >= max(compute, memory):
        return "launch"
    return "compute" if compute >= memory else "memory"


def _gemm_times(
    kernels: list[Kernel], path: Path, target: Target, batch: int, flow: str, stored: float
) -> list[KernelTime]:
    """All GEMM kernels of one path at once; activations leave them as `flow`."""
    rows = [
        (op.m * batch, sum(part.n for part in k.ops), op.k, op.count, k.read * batch)
        for k in kernels
        for op in k.ops[:1]
    ]
    m, n, k, count, read = np.maximum(np.array(rows, dtype=np.float64), 1e-9).T
    gemms = Gemms(m, n, k, count, np.minimum(read, count * m * k), np.full_like(m, BYTES[flow]))
    fit, engine = target.fit_of(*path), target.engine
    terms = gemm_us(gemms, speed_of(target, *path), _within_engine(fit, engine.scale(*path)), stored)
    errors = half_widths(fit, terms.total + fit.t0_us)
    found = []
    columns = (terms.compute, terms.memory, terms.latency, terms.total, errors)
    for kernel, compute, memory, latency, total, error in zip(kernels, *(c.tolist() for c in columns), strict=True):
        extra = _traffic_us(kernel.extra_read * batch, flow, target)
        bound = bound_of(compute, memory + extra, engine.kernel_us + latency)
        found.append(KernelTime(engine.kernel_us + total + extra, bound, error, fit.scaled))
    return found


def _within_engine(fit: Fit, scale: float) -> Fit:
    """The path's efficiencies with its compute time multiplied; memory is the same for an engine's kernels."""
    energy = fit.picojoules * scale if fit.picojoules else None
    return fit.model_copy(update={"compute_efficiency": fit.compute_efficiency / scale, "picojoules": energy})


def _is_depthwise(op: Op) -> bool:
    return op.count > 1 and op.n <= DEPTHWISE_OUTPUTS


def _light_time(kernel: Kernel, target: Target, batch: int, base: str, flow: str) -> KernelTime:
    """Attention, what only moves data, and depthwise convolutions, whose products stay off the tensor cores."""
    engine = target.engine
    memory = _traffic_us((kernel.read + kernel.write + kernel.extra_read) * batch, flow, target)
    if kernel.kind == "attention":
        compute = sum(_product_us(op, target, batch, base) for op in kernel.ops if op.macs)
    else:
        compute = 2.0 * kernel.macs * batch / (target.peak("fp32") * 1e6)
    bound = bound_of(compute, memory, engine.kernel_us)
    return KernelTime(engine.kernel_us + max(compute, memory), bound, engine.error_p90)


def _product_us(op: Op, target: Target, batch: int, base: str) -> float:
    """One product of activations: the first head alone on its unit, then all heads at the full rate.

    The peak is the float one for INT8 attention too: softmax in between stays float, and published engines gain
    nothing.
    """
    rate = target.peak(base) * 1e6 * target.engine.attention_efficiency  # operations a microsecond
    if not target.is_gpu:
        return 2.0 * op.macs * batch / rate
    m, n, k = (ATTENTION_TILE * math.ceil(size / ATTENTION_TILE) for size in (op.m, op.n, op.k))
    bulk = 2.0 * op.count * batch * m * n * k / rate
    alone = 2.0 * min(m, ATTENTION_ROWS) * n * k * target.units / rate
    return alone + bulk


def _traffic_us(elements: float, flow: str, target: Target) -> float:
    """Microseconds to move elements between kernels."""
    return elements * BYTES[flow] / (target.bandwidth_gbs * 1e3 * target.engine.memory_efficiency)
