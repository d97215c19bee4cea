"""Ranges from data: every quantizer observes the calibration images once."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from gpusq.errors import EmptyDataError, NonFiniteError
from gpusq.quantization.layers import quantizers, set_mode, set_weight_ranges
from gpusq.quantization.observers import Calibrator, Observer, observer
from gpusq.quantization.quantizer import FakeQuantizer


class NamedObserver:
    """An observer whose errors name the quantizer."""

    def __init__(self, name: str, inner: Observer) -> None:
        self._name, self._inner = name, inner

    def add(self, x: Tensor) -> None:
        """Look at x. Raises NonFiniteError naming the quantizer."""
        try:
            self._inner.add(x)
        except NonFiniteError as error:
            raise NonFiniteError(f"{self._name}: {error.what}", got=error.got, do=error.do) from error

    def amax(self) -> Tensor:
        """The range, 0-d."""
        return self._inner.amax()


def calibrate(module: nn.Module, batches: Iterable[Tensor], calibrator: Calibrator) -> None:
    """Set every scale: weights from their values, activations from `batches` [B, C, H, W] through an observer.

    Leaves all quantizers in mode "quantize". Raises NonFiniteError naming the quantizer, EmptyDataError where no
    image came.
    """
    set_weight_ranges(module)
    set_mode(module, "off")
    active = _observing(module, calibrator)
    seen = 0
    with torch.no_grad():
        for batch in batches:
            module(batch)
            seen += len(batch)
    if not seen:
        raise EmptyDataError("calibration needs at least one image", got="none", do="check the data set")
    for quantizer in active:
        if quantizer.observer is not None:
            quantizer.set_range(quantizer.observer.amax())
        quantizer.observer = None
    set_mode(module, "quantize")


def _observing(module: nn.Module, calibrator: Calibrator) -> list[FakeQuantizer]:
    """The activation quantizers, each with a fresh observer."""
    active = []
    for name, quantizer in quantizers(module):
        if not name.endswith("weight_quantizer"):
            quantizer.mode, quantizer.observer = "observe", NamedObserver(name, observer(calibrator, quantizer.hi))
            active.append(quantizer)
    return active
