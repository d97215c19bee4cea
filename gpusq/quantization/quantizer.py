"""One quantizer: a scale, a range of integers, and what it does at the moment."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from gpusq.errors import NonFiniteError
from gpusq.quantization.fake_quantize import PER_TENSOR, LearnedQuantize, fake_quantize, rounded
from gpusq.quantization.observers import Observer

Mode = Literal["off", "observe", "quantize", "learn"]
SMALLEST_SCALE = 2.0**-14
"""Smallest normal FP16 number: a smaller scale would lose precision in the FP16 file."""
LARGEST_SCALE = 65504.0
"""Largest FP16 number."""


class FakeQuantizer(nn.Module):
    """Symmetric, zero point 0. Weights (axis given) use [-127, 127] at 8 bits, activations [-128, 127].

    mode: "off" passes through; "observe" feeds the observer and passes through; "quantize" applies the exportable
    operator; "learn" trains `log_gain`, the logarithm of what multiplies the calibrated scale, so that a step of the
    optimizer changes large and small scales by the same share. `seal` folds it into the scale.
    """

    scale: Tensor
    log_gain: nn.Parameter

    def __init__(self, axis: int | None, channels: int | None, bits: int = 8) -> None:
        super().__init__()
        self.axis = PER_TENSOR if axis is None else axis
        self.hi = 2 ** (bits - 1) - 1
        self.lo = -self.hi if axis is not None else -self.hi - 1
        shape = () if axis is None else (channels or 1,)
        self.register_buffer("scale", torch.ones(shape))
        self.log_gain = nn.Parameter(torch.zeros(shape), requires_grad=False)
        self.mode: Mode = "off"
        self.observer: Observer | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape; the same shape."""
        if self.mode == "quantize":
            if not (torch.is_grad_enabled() or torch.compiler.is_compiling()):  # export and compile see the operator
                return rounded(x, self.scale, self.axis, self.lo, self.hi)
            return cast(Tensor, fake_quantize(x, self.scale, self.axis, self.lo, self.hi))
        if self.mode == "learn":
            return self._learned(x)
        if self.mode == "observe" and self.observer is not None:
            self.observer.add(x.detach())
        return x

    def _learned(self, x: Tensor) -> Tensor:
        scale = (self.scale * self.log_gain.exp()).to(x.dtype)
        values = x.numel() / (x.shape[0] if self.axis == PER_TENSOR else scale.numel())
        gradient_scale = (values * self.hi) ** -0.5
        out = LearnedQuantize.apply(x, scale, self.axis, self.lo, self.hi, gradient_scale)  # type: ignore[no-untyped-call]
        return cast(Tensor, out)

    def set_range(self, amax: Tensor) -> None:
        """Set the scale so that `amax` (0-d or [channels], >= 0) is the largest value. Raises NonFiniteError."""
        self._set_scale(amax.to(self.scale).reshape(self.scale.shape) / self.hi)

    def seal(self) -> None:
        """Fold what was learned into the scale, rounded to an FP16 number of at least SMALLEST_SCALE."""
        self._set_scale(self.scale * self.log_gain.detach().exp())

    def _set_scale(self, scale: Tensor) -> None:
        if not bool(torch.isfinite(scale).all()):
            raise NonFiniteError(
                "a quantizer's scale must be finite", do="check weights and images, or lower the learning rate"
            )
        with torch.no_grad():
            self.scale.copy_(scale.clamp(SMALLEST_SCALE, LARGEST_SCALE).half())
            self.log_gain.zero_()
