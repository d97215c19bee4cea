"""Fit the engine section of a target (start, gap, attention, memory, scales) to a few whole encoders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpusq.latency.encoder import encoder_workload
from gpusq.latency.forms import STANDS_FOR, predict_form
from gpusq.latency.gauss_newton import Prior, gauss_newton
from gpusq.latency.points import EncoderPoint
from gpusq.targets import EngineFit, Target

Floats = NDArray[np.float64]
# (field, least, most, spread of its logarithm): a device of a known family is about this near to its kin.
FIELDS = (
    ("start_us", 0.1, 1000.0, 0.7),
    ("kernel_us", 0.05, 50.0, 0.5),
    ("attention_efficiency", 0.02, 1.0, 0.4),
    ("memory_efficiency", 0.1, 1.0, 0.3),
)
SCALE_LEAST, SCALE_MOST, SCALE_SPREAD = 0.5, 3.0, 0.15
STEPS = 20


def fit_engine(points: Sequence[EncoderPoint], target: Target) -> EngineFit:
    """The engine section that fits these encoders best; the target's own is the prior and the start.

    Refitted, each as a logarithm: FIELDS, and the GEMM scale of each path measured. Seconds for ten points.
    error_p90 and source are those of the target: set them from held-out rows.
    """
    paths = sorted({_scaled_path(point) for point in points})
    engine = target.engine
    first = [max(getattr(engine, name), least) for name, least, _, _ in FIELDS]
    scales = [engine.gemm_scale.get(path, 1.0) for path in paths]
    prior = Prior(
        centre=np.log([*first, *scales]),
        spread=np.array([*(spread for *_, spread in FIELDS), *(SCALE_SPREAD for _ in paths)]),
        lowest=np.log([*(least for _, least, _, _ in FIELDS), *(SCALE_LEAST for _ in paths)]),
        highest=np.log([*(most for _, _, most, _ in FIELDS), *(SCALE_MOST for _ in paths)]),
        free=np.ones(len(first) + len(scales), dtype=np.bool_),
    )
    found = gauss_newton(lambda logs: ln_errors(points, _with(target, logs, paths)), prior, STEPS)
    return _with(target, found, paths).engine


def ln_errors(points: Sequence[EncoderPoint], target: Target) -> Floats:
    """ln(predicted / measured) of each encoder."""
    return np.log([predicted_us(point, target) / point.us for point in points])


def predicted_us(point: EncoderPoint, target: Target) -> float:
    """Microseconds of one encoder on a target."""
    *shape, batch = point.sizes
    layers, width, heads, mlp, tokens = shape
    workload = encoder_workload(layers, width, heads, mlp, tokens)
    return 1e3 * predict_form(workload, target, batch, point.dtype, point.sparsity).latency_ms


def _scaled_path(point: EncoderPoint) -> str:
    """The key under which the engine's scale of this point stands: bf16 shares that of fp16."""
    dtype = "fp16" if STANDS_FOR.get(point.dtype) == "fp16" else point.dtype
    return f"{dtype}/{point.sparsity}"


def _with(target: Target, logs: Floats, paths: Sequence[str]) -> Target:
    values = np.exp(logs).tolist()
    fields = {name: round(value, 5) for (name, *_), value in zip(FIELDS, values, strict=False)}
    scales = dict(zip(paths, values[len(FIELDS) :], strict=True))
    update = {**fields, "gemm_scale": target.engine.gemm_scale | scales}
    return target.model_copy(update={"engine": target.engine.model_copy(update=update)})
