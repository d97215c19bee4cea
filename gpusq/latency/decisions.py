"""Where compression pays: the batch from which 2:4, INT8 or both are faster, for each layer and for the model.

Everything here is predicted. A form pays from a batch on where it is faster there and at every larger batch examined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpusq.errors import UsageError
from gpusq.latency.break_even import LEAST_GAIN, PLOTTED, BreakEven, layer_answers, model_answers
from gpusq.latency.predict import Prediction, predict
from gpusq.targets import Target
from gpusq.workload import Layer, Workload

ALL_BATCHES = tuple(range(1, 257))
EXAMINED = (*range(1, 33), *range(36, 129, 4), *range(136, 257, 8))
"""A coarser choice that costs a quarter."""


@dataclass(frozen=True)
class Point:
    """Latency of one batch in milliseconds with its 90 % interval."""

    batch: int
    ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True)
class Decisions:
    """Predicted answers for one model on one target. curves: form -> its points; examined: the batches looked at.

    model: first the fully compressed form against the dense float twin, then each change by itself.
    """

    target: str
    examined: tuple[int, ...]
    curves: dict[str, tuple[Point, ...]]
    model: tuple[BreakEven, ...]
    layers: tuple[BreakEven, ...]

    @property
    def sparse_does_not_pay(self) -> tuple[str, ...]:
        """Layers that 2:4 makes faster at no batch."""
        return tuple(found.layer for found in self.layers if found.change == "2:4" and not found.pays)

    def sparse_loses_at(self, batch: int) -> tuple[str, ...]:
        """Layers that 2:4 does not make faster at this batch, one of those examined."""
        asked = ((found.layer, found.gain_at(batch)) for found in self.layers if found.change == "2:4")
        return tuple(layer for layer, gain in asked if gain is not None and gain.point < LEAST_GAIN)

    def to_json(self) -> dict[str, Any]:
        """Plain data; curves at the batches of PLOTTED."""
        return {
            "target": self.target,
            "status": "predicted",
            "examined": [self.examined[0], self.examined[-1]],
            "curves": {name: [vars(p) for p in points if p.batch in PLOTTED] for name, points in self.curves.items()},
            "model": [found.to_json() for found in self.model],
            "layers": [found.to_json() for found in self.layers],
            "sparse_does_not_pay": list(self.sparse_does_not_pay),
        }


def decide(
    workload: Workload,
    layers: Sequence[Layer],
    target: Target,
    batches: Sequence[int] = ALL_BATCHES,
    *,
    base_dtype: str | None = None,
    correlation: float = 0.5,
    int8_attention: bool = False,
) -> Decisions:
    """Break-even batches of a model on a target.

    layers: their form says which are pruned and quantized in the compressed form; where none is, all that can be are
    taken. base_dtype: of what is not quantized; None: fp16 on a GPU, fp32 on a CPU. correlation: share (0 to 1) of the
    variance that the errors of two forms have in common. Raises UsageError for no batches or ones that do not ascend
    from 1 or more.
    """
    batches = tuple(batches)
    if not batches or batches[0] < 1 or list(batches) != sorted(set(batches)):
        raise UsageError("batches ascend from 1 or more", got=str(batches[:5]), do="give them in order, each once")
    base: str = base_dtype or ("fp16" if target.is_gpu else "fp32")
    forms = forms_of(layers, base)
    runs = {
        name: [
            predict(workload, form, target, batch, base, int8_attention=int8_attention and "int8" in name)
            for batch in batches
        ]
        for name, form in forms.items()
    }
    return Decisions(
        target.name,
        batches,
        {name: tuple(_point(found) for found in run) for name, run in runs.items()},
        tuple(model_answers(runs, batches, correlation)),
        tuple(layer_answers(runs, batches, list(forms.values())[-1], correlation)),
    )


def forms_of(layers: Sequence[Layer], base: str) -> dict[str, tuple[Layer, ...]]:
    """The four forms of a model: dense and 2:4 in `base`, then dense and 2:4 in INT8.

    What is 2:4 or INT8 in the given layers is so there; where nothing is, all that can be.
    """
    sparse = {layer.name for layer in layers if layer.sparse} or {layer.name for layer in layers if layer.k % 4 == 0}
    int8 = {layer.name for layer in layers if layer.int8} or {layer.name for layer in layers}

    def form(pruned: bool, quantized: bool) -> tuple[Layer, ...]:
        return tuple(
            replace(layer, sparse=pruned and layer.name in sparse, int8=quantized and layer.name in int8)
            for layer in layers
        )

    return {
        f"{'sparse' if pruned else 'dense'}-{'int8' if quantized else base}": form(pruned, quantized)
        for quantized in (False, True)
        for pruned in (False, True)
    }


def _point(found: Prediction) -> Point:
    return Point(found.batch, found.latency_ms, found.low_ms, found.high_ms)
