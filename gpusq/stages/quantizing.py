"""Which layers Qat leaves in floating point, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from gpusq.errors import UsageError
from gpusq.models import unreached_attention
from gpusq.workload import Layer

if TYPE_CHECKING:
    from gpusq.stages.model_files import ModelState
    from gpusq.stages.qat import Qat

IN_FLOAT = "kept in floating point"
BY_REQUEST = "kept in floating point by request (keep_float)"
NEVER_RUN = "its forward is never called in a pass"


def skipped_layers(state: ModelState, keep_float: Sequence[str]) -> dict[str, str]:
    """Layer -> reason for each layer that is not quantized. Raises UsageError for a pattern that names no layer."""
    names = [layer.name for layer in state.layers]
    for pattern in keep_float:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"qat: no layer is called {pattern!r}", do=f"layers: {', '.join(names[:8])} ...")
    ran = {op.name for op in state.workload.ops if op.kind == "gemm"}
    dense = {name: NEVER_RUN for name in names if name not in ran} | state.loaded.keep_dense
    skip = {name: dense[name].replace("kept dense", IN_FLOAT) for name in names if name in dense}
    return skip | {n: BY_REQUEST for n in names if any(fnmatchcase(n, p) for p in keep_float)}


def quantized_layers(layers: Sequence[Layer], skip: Mapping[str, str]) -> tuple[Layer, ...]:
    """The layers' states after quantization."""
    return tuple(replace(x, why_float=skip[x.name]) if x.name in skip else x.quantized() for x in layers)


def qat_notes(qat: Qat, state: ModelState) -> list[str]:
    """What Qat could not do as asked: attention without points, a weight factor without recorded losses."""
    notes = []
    missed = unreached_attention(state.module, state.workload) if "attention" in qat.policy else ()
    if missed:
        notes.append(f"qat: attention products left in floating point, not reached: {', '.join(missed)}")
    if qat.epochs and qat.gamma and qat.factor != "uniform" and not state.prune_loss:
        notes.append(f"qat: no pruning losses were recorded, so factor {qat.factor} acts as uniform")
    return notes
