"""A workload in one form throughout: every GEMM in one precision, dense or 2:4."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gpusq.errors import UsageError
from gpusq.latency.encoder import encoder_layers
from gpusq.latency.predict import Prediction, predict
from gpusq.targets import Target
from gpusq.workload import Layer, Workload

FORM_DTYPES = ("fp32", "fp16", "bf16", "int8", "fp8")
# Precisions of one operand width run through one set of kernels; `standing_in` gives these the facts of those.
STANDS_FOR = {"bf16": "fp16", "fp8": "int8"}


def standing_in(target: Target, dtype: str) -> Target:
    """The target with the peaks and efficiencies of `dtype` in the place of the precision of equal width.

    `predict` knows fp16, fp32 and int8; a bf16 model runs as its fp16 twin with bf16 facts, an fp8 one as int8.
    Raises UsageError for a precision that the target has not.
    """
    place = STANDS_FOR.get(dtype)
    if place is None:
        target.peak(dtype)
        return target
    peaks = {f"{place}/{s}": target.peak(dtype, s) for s in ("dense", "2:4")}
    fits = {f"{place}/{s}": target.fit_of(dtype, s) for s in ("dense", "2:4")}
    scales = {key: value for key, value in target.engine.gemm_scale.items() if not key.startswith(f"{place}/")}
    known = {s: _scale(target, dtype, place, s) for s in ("dense", "2:4")}
    engine = target.engine.model_copy(
        update={"gemm_scale": {**scales, **{f"{place}/{s}": value for s, value in known.items()}}}
    )
    update = {"peaks_tops": target.peaks_tops | peaks, "fit": target.fit | fits, "engine": engine}
    return target.model_copy(update=update)


def _scale(target: Target, dtype: str, place: str, sparsity: str) -> float:
    """The engine's own factor for this path; bf16 takes that of fp16, with which it shares kernels and outputs."""
    own = target.engine.gemm_scale.get(f"{dtype}/{sparsity}")
    if own is not None:
        return own
    return target.engine.scale(place, sparsity) if dtype == "bf16" else 1.0


def predict_form(workload: Workload, target: Target, batch: int, dtype: str, sparsity: str) -> Prediction:
    """Latency of the workload with every GEMM in `dtype` and `sparsity`; INT8 and FP8 carry the attention too.

    Raises UsageError for a precision that has no engine (int4) or that the target has not.
    """
    if dtype not in FORM_DTYPES:
        raise UsageError(
            f"a model runs in one of {', '.join(FORM_DTYPES)}", got=repr(dtype), do="ask for single GEMMs instead"
        )
    narrow = STANDS_FOR.get(dtype, dtype) == "int8"
    layers = encoder_layers(workload, sparse=sparsity == "2:4", int8=narrow)
    base = "fp32" if dtype == "fp32" else "fp16"
    found = predict(workload, layers, standing_in(target, dtype), batch, base, int8_attention=narrow)
    return replace(found, precision=dtype)


def in_form(layers: Iterable[Layer], *, sparse: bool, int8: bool) -> tuple[Layer, ...]:
    """The same layers, all dense or 2:4, all float or INT8."""
    return tuple(replace(layer, sparse=sparse, int8=int8) for layer in layers)
