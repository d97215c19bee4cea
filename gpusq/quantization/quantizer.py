"""One quantizer: a scale, a range of integers, and what to do with what passes through."""

from __future__ import annotations

from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from gpusq.errors import NonFiniteError, UsageError
from gpusq.quantization.fake_quantize import (
    LearnedScale,
    StraightThrough,
    fake_quantize,
    integer_range,
    round_trip,
)

Mode = Literal["off", "observe", "quantize", "learn"]

SMALLEST_SCALE = 2.0**-14  # the smallest normal FP16 number: scales must survive an FP16 engine
LARGEST_SCALE = 65504.0


class Observer(Protocol):
    """Collects a tensor's range over many batches."""

    def add(self, x: Tensor) -> None:
        """Take one batch into account. Raises NonFiniteError on NaN or infinity."""
        ...

    def amax(self) -> Tensor:
        """The absolute range found, 0-d or [C], >= 0."""
        ...


class FakeQuantizer(nn.Module):
    """Symmetric fake quantization with zero point 0, per tensor (axis None) or per channel.

    Modes: `off` passes everything; `observe` passes and feeds `observer`; `quantize` rounds with a fixed scale and
    a straight-through gradient; `learn` also trains the scale (LearnedScale). `scale` is the calibrated scale,
    `log_gain` what training added to it; `effective_scale` joins both. name: for error messages.
    """

    scale: Tensor
    log_gain: nn.Parameter

    def __init__(self, name: str, *, channels: int | None = None, axis: int = 0, bits: int = 8) -> None:
        """channels: None for a scale per tensor, else the length of `axis`. Weights are the per-channel ones."""
        super().__init__()
        if bits not in (4, 8):
            raise UsageError(f"quantizer {name}: bits must be 8 or 4", got=str(bits), do="set bits to 8 or 4")
        shape = () if channels is None else (channels,)
        self.name, self.axis, self.bits = name, axis, bits
        self.lo, self.hi = integer_range(bits, weight=channels is not None)
        self.register_buffer("scale", torch.ones(shape))
        self.log_gain = nn.Parameter(torch.zeros(shape), requires_grad=False)
        self.observer: Observer | None = None
        self.calibrated = False
        self.readers = 1  # how many layers share this quantizer because they read the same tensor
        self.mode: Mode = "off"
        self._memo: tuple[Tensor, Tensor, tuple[object, ...]] | None = None
        self._memo_reads = 0

    def set_mode(self, mode: Mode) -> None:
        """Switch. Raises UsageError for an unknown mode, and for quantizing before a range is known."""
        if mode not in get_args(Mode):
            raise UsageError("a quantizer's mode is one of " + ", ".join(get_args(Mode)), got=mode)
        if mode in ("quantize", "learn") and not self.calibrated:
            raise UsageError(f"quantizer {self.name} has no range yet", do="calibrate or load scales first")
        if mode == "observe" and self.observer is None:
            raise UsageError(f"quantizer {self.name} has no observer", do="calibrate through gpusq.quantization")
        self.mode = mode
        self.log_gain.requires_grad_(mode == "learn")
        self.forget()

    def effective_scale(self) -> Tensor:
        """The scale in force, same shape as `scale`."""
        return (self.scale * self.log_gain.detach().exp()) if self.mode == "learn" else self.scale

    @torch.no_grad()
    def set_scale(self, scale: Tensor) -> None:
        """Fix the scale, rounded to an FP16 number within [2**-14, 65504]; a zero range gets the floor.

        Raises NonFiniteError for NaN or infinity, UsageError for a wrong shape.
        """
        if scale.shape != self.scale.shape:
            raise UsageError(
                f"quantizer {self.name} needs scales of shape {tuple(self.scale.shape)}", got=str(tuple(scale.shape))
            )
        if not bool(torch.isfinite(scale).all()):
            raise NonFiniteError(f"the scale of {self.name} must be finite", do="check the calibration data and weights")
        self.scale.copy_(scale.float().clamp(SMALLEST_SCALE, LARGEST_SCALE).half())
        self.log_gain.zero_()
        self.calibrated = True
        self.forget()

    def set_range(self, amax: Tensor) -> None:
        """Fix the scale from an absolute range: amax maps to the highest integer. Errors as `set_scale`."""
        self.set_scale(amax.to(self.scale.device) / self.hi)

    @torch.no_grad()
    def seal(self) -> None:
        """Fold what was learned into `scale`, representable in FP16."""
        self.set_scale(self.scale * self.log_gain.exp())

    def forget(self) -> None:
        """Drop the remembered result."""
        self._memo, self._memo_reads = None, 0

    def train(self, mode: bool = True) -> FakeQuantizer:
        """As nn.Module.train, and drops the remembered result."""
        self.forget()
        super().train(mode)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape (its `axis` as long as the scale); same shape and type."""
        if self.mode == "off":
            return x
        if torch.compiler.is_compiling():
            return fake_quantize(x, self.effective_scale(), self.axis, self.lo, self.hi)
        if self.mode == "observe":
            self._observe(x)
            return x
        return self._remembered(x) if self._worth_remembering() else self._quantized(x)

    def _observe(self, x: Tensor) -> None:
        if self.observer is None:
            raise UsageError(f"quantizer {self.name} has no observer", do="calibrate through gpusq.quantization")
        try:
            self.observer.add(x.detach())
        except NonFiniteError as error:
            raise NonFiniteError(
                f"calibration met NaN or infinity at {self.name}",
                do="check the images and the weights; a layer before this one may overflow",
            ) from error

    def _quantized(self, x: Tensor) -> Tensor:
        grad = torch.is_grad_enabled()
        if self.mode == "learn" and grad:
            return LearnedScale.apply(x, self.log_gain, self.scale, self.axis, self.lo, self.hi)  # type: ignore[no-any-return]
        scale = self.effective_scale()
        if grad and x.requires_grad:
            return StraightThrough.apply(x, scale, self.axis, self.lo, self.hi)  # type: ignore[no-any-return]
        return round_trip(x, scale, self.axis, self.lo, self.hi)

    def _worth_remembering(self) -> bool:
        """A tensor read by several layers; or a weight while nothing trains."""
        return self.readers > 1 or (self.scale.dim() > 0 and not self.training and not torch.is_grad_enabled())

    def _remembered(self, x: Tensor) -> Tensor:
        version = -1 if x.is_inference() else x._version
        key = (version, x.data_ptr(), self.scale._version, self.log_gain._version, torch.is_grad_enabled())
        if self._memo is None or self._memo[0] is not x or self._memo[2] != key:
            self._memo, self._memo_reads = (x, self._quantized(x), key), 0
        result = self._memo[1]
        self._memo_reads += 1
        if self.scale.dim() == 0 and self._memo_reads >= self.readers:
            self.forget()  # the last reader has it: do not keep activations alive
        return result
