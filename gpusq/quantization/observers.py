"""What range an activation needs: the largest value, a percentile, or the range of least squared error."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from gpusq.errors import NonFiniteError, UsageError

Calibrator = Literal["max", "percentile", "mse", "modelopt"]
BINS = 2048
PERCENTILE = 99.99
MSE_CANDIDATES = 128
COUNTED_AT_ONCE = 1 << 24  # torch.histc counts in float32, which stops growing here


class Observer(Protocol):
    """Sees batches, then names the largest absolute value to represent."""

    def add(self, x: Tensor) -> None:
        """Look at an activation of any shape. Raises NonFiniteError."""
        ...

    def amax(self) -> Tensor:
        """The range, 0-d, >= 0."""
        ...


class MaxObserver:
    """The largest absolute value seen."""

    def __init__(self) -> None:
        self._amax = torch.zeros(())

    def add(self, x: Tensor) -> None:
        """Look at x."""
        self._amax = torch.maximum(self._amax, checked_amax(x).cpu())

    def amax(self) -> Tensor:
        """The largest absolute value, 0 where nothing was seen."""
        return self._amax


class HistogramObserver:
    """A histogram of absolute values with BINS bins; its range doubles as larger values come."""

    def __init__(self) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.float64)
        self.width = 0.0

    def add(self, x: Tensor) -> None:
        """Count x in."""
        largest = float(checked_amax(x))
        if largest == 0.0:
            self.counts[0] += x.numel()
            return
        self._grow(largest)
        values = x.detach().abs().float().flatten()
        for start in range(0, len(values), COUNTED_AT_ONCE):
            part = values[start : start + COUNTED_AT_ONCE]
            self.counts += torch.histc(part, bins=BINS, min=0.0, max=self.width * BINS).double().cpu()

    def _grow(self, largest: float) -> None:
        if self.width == 0.0:
            self.width = largest / BINS
        while largest > self.width * BINS:
            pairs = self.counts.view(-1, 2).sum(dim=1)
            self.counts = torch.cat([pairs, torch.zeros(BINS // 2, dtype=torch.float64)])
            self.width *= 2

    def edges(self) -> Tensor:
        """Upper edge of each bin, [BINS]."""
        return torch.arange(1, BINS + 1, dtype=torch.float64) * self.width

    def largest(self) -> int:
        """Index of the last bin that holds anything."""
        filled = torch.nonzero(self.counts)
        return int(filled[-1]) if len(filled) else 0

    def amax(self) -> Tensor:
        """Upper edge of the last filled bin."""
        return self.edges()[self.largest()].float()


class PercentileObserver(HistogramObserver):
    """The value below which `percentile` per cent of the absolute values lie."""

    def __init__(self, percentile: float = PERCENTILE) -> None:
        super().__init__()
        if not 0 < percentile <= 100:
            raise UsageError("a percentile is above 0 and at most 100", got=str(percentile), do="for example 99.99")
        self.percentile = percentile

    def amax(self) -> Tensor:
        """Upper edge of the bin in which the percentile falls."""
        total = self.counts.sum()
        if total == 0:
            return torch.zeros(())
        share = self.counts.cumsum(0) / total
        index = int(torch.searchsorted(share, torch.tensor(self.percentile / 100, dtype=torch.float64)))
        return self.edges()[min(index, BINS - 1)].float()


class MseObserver(HistogramObserver):
    """The range whose rounding and clipping error, squared and summed over the histogram, is least.

    levels: positive integers of the quantizer (127 at 8 bits).
    """

    def __init__(self, levels: int = 127) -> None:
        super().__init__()
        self.levels = levels

    def amax(self) -> Tensor:
        """The best of MSE_CANDIDATES ranges up to the largest value."""
        last = self.largest()
        edges = self.edges()
        centres = edges - self.width / 2
        candidates = edges[last] * torch.linspace(1 / MSE_CANDIDATES, 1, MSE_CANDIDATES, dtype=torch.float64)
        if self.width == 0.0:
            return torch.zeros(())
        scale = (candidates / self.levels).unsqueeze(1)  # [candidates, 1]
        error = (centres / scale).round().clamp(max=self.levels) * scale - centres
        return candidates[int((error.square() * self.counts).sum(dim=1).argmin())].float()


def checked_amax(x: Tensor) -> Tensor:
    """Largest absolute value of x, 0-d. Raises NonFiniteError where it is NaN or infinite."""
    amax = x.detach().abs().amax().float() if x.numel() else torch.zeros(())
    if not bool(torch.isfinite(amax)):
        raise NonFiniteError(
            "activations hold NaN or infinity", got=str(float(amax)), do="check the images and weights"
        )
    return amax


def observer(calibrator: Calibrator, levels: int = 127) -> Observer:
    """A fresh observer; levels: positive integers of the quantizer. Raises UsageError, MissingExtraError."""
    if calibrator == "max":
        return MaxObserver()
    if calibrator == "percentile":
        return PercentileObserver()
    if calibrator == "mse":
        return MseObserver(levels)
    if calibrator == "modelopt":
        from gpusq.quantization.modelopt_calibrators import ModeloptObserver

        return ModeloptObserver()
    raise UsageError("a calibrator is max, percentile, mse or modelopt", got=repr(calibrator), do="choose one of them")
