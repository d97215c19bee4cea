"""Predict the latency of a model or one GEMM on a target, with a 90 % interval. Always `predicted`, never measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gpusq.errors import UsageError
from gpusq.latency.fusion import Kernel, fuse
from gpusq.latency.gemm import BYTES, LARGEST_SIZE, gemm_us, shaped, speed_of
from gpusq.latency.interval import half_widths
from gpusq.latency.kernels import Bound, KernelTime, Path, bound_of, kernel_times
from gpusq.targets import Target
from gpusq.workload import Layer, Workload

REST = "start and gaps"


@dataclass(frozen=True)
class OpPrediction:
    """Predicted time of one operator in microseconds, what bounds it, and its share (0 to 1) of all kernels.

    low_us, high_us: its 90 % interval. scaled: its path was not fitted but scaled by the ratio of peaks.
    """

    name: str
    us: float
    bound: Bound
    share: float
    low_us: float = math.nan
    high_us: float = math.nan
    scaled: bool = False


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
    def scaled(self) -> bool:
        """Whether any operator's path was not fitted but scaled by the ratio of peaks."""
        return any(op.scaled for op in self.ops)

    @property
    def rest(self) -> OpPrediction:
        """What belongs to no operator: the engine's start. With `ops` it adds up to the latency."""
        us = max(1e3 * self.latency_ms - sum(op.us for op in self.ops), 0.0)
        spread = self.high_ms / self.latency_ms if self.latency_ms > 0 else 1.0
        return _op(REST, us, "launch", 0.0, math.log(spread), False)

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
    fused: bool = True,
) -> Prediction:
    """Latency of `batch` images in one engine on `target`: its start and every kernel one after the other, one stream.

    The sum of start_us and of the times of the fused kernels. Nothing overlaps: no second stream, no kernels side by
    side (parallel branches, several requests at once), no copy of inputs or outputs behind the computation.

    base_dtype: "fp16" or "fp32" for what is neither sparse nor INT8. On a GPU a sparse float layer is fp16; a CPU
    runs fp32 and int8, and gains nothing from 2:4. GEMMs without a Layer run dense in the base precision.
    int8_attention: the products of activations, and what moves between kernels, are INT8 too.
    fused: False runs every operator as a kernel of its own, attention in three, as runtimes without an optimiser do.
    Raises UsageError for another dtype or a batch below 1.
    """
    _check(batch, base_dtype)
    base = base_dtype if target.is_gpu else "fp32"
    states = {layer.name: layer for layer in layers}
    gemms = {op.name for op in workload.ops if op.kind == "gemm"}
    paths = {name: _path(states.get(name), target, base) for name in gemms}
    kernels = fuse(workload.ops, paths, fused=fused)
    times = kernel_times(kernels, target, batch, base, "int8" if int8_attention else base)
    total_us = target.engine.start_us + sum(time.us for time in times)
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


def predict_gemm(target: Target, dtype: str, sparsity: str, m: int, n: int, k: int) -> OpPrediction:
    """One isolated call of [m, k] x [k, n] through the target's best library kernel, launch included.

    dtype: fp32, fp16, bf16, int8, fp8, int4; sparsity: dense or 2:4 (of the weight [n, k]). Operands and result stay
    where the call before left them, as when a benchmark repeats it. Dense INT8 writes INT32, the rest 16 bit (fp32
    writes itself). `scaled` where the path was not fitted but scaled by its peak.
    Raises UsageError for a size below 1 or above LARGEST_SIZE, and for a dtype or sparsity that the target has not.
    """
    _check_sizes(m, n, k)
    speed, fit = speed_of(target, dtype, sparsity), target.fit_of(dtype, sparsity)
    out_bytes = 4.0 if (dtype, sparsity) == ("int8", "dense") else max(BYTES[dtype], 2.0)
    terms = gemm_us(shaped(m, n, k, out_bytes), speed, fit)
    us = float(fit.t0_us + terms.total[0])
    error = float(half_widths(fit, np.array([us]))[0])
    bound = bound_of(float(terms.compute[0]), float(terms.memory[0]), fit.t0_us + float(terms.latency[0]))
    return _op(f"gemm {m}x{n}x{k}", us, bound, 1.0, error, fit.scaled)


def _check_sizes(m: int, n: int, k: int) -> None:
    if min(m, n, k) < 1 or max(m, n, k) > LARGEST_SIZE:
        raise UsageError(
            f"the sizes of a GEMM are from 1 to {LARGEST_SIZE}", got=f"m={m} n={n} k={k}", do="correct the sizes"
        )


def _op(name: str, us: float, bound: Bound, share: float, ln_error: float, scaled: bool) -> OpPrediction:
    spread = math.exp(ln_error)
    return OpPrediction(name, us, bound, share, us / spread, us * spread, scaled)


def _error(kernels: list[Kernel], times: list[KernelTime], target: Target) -> float:
    """Half-width of the interval in ln: the whole-model error, or the GEMMs' own where that is larger.

    Paths that the engine was fitted with have their own error within the whole-model one.
    """
    gemms = [(kernel, time) for kernel, time in zip(kernels, times, strict=True) if kernel.kind == "gemm"]
    total = sum(time.us for _, time in gemms)
    apart = [(k, time) for k, time in gemms if "/".join(k.path) not in target.engine.gemm_scale]
    own = sum(time.us * time.ln_error for _, time in apart) / total if total else 0.0
    return max(target.engine.error_p90, own)


def _op_predictions(kernels: list[Kernel], times: list[KernelTime]) -> tuple[OpPrediction, ...]:
    total = sum(time.us for time in times) or 1.0
    found: list[OpPrediction] = []
    for kernel, time in zip(kernels, times, strict=True):
        named = kernel.ops if kernel.kind == "gemm" else kernel.ops[:1]
        width = sum(op.n for op in named) or 1
        for op in named:
            part = time.us * op.n / width if len(named) > 1 else time.us
            found.append(_op(op.name, part, time.bound, part / total, time.ln_error, time.scaled))
    return tuple(found)
