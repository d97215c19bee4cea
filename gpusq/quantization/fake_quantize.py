"""Rounding to integers and back: the operator that exports, and the one whose scale learns.

Both run the same arithmetic, `round(x / scale)` with a true division, clamped and multiplied back, as ONNX
QuantizeLinear and DequantizeLinear do; so a trained model and its export carry the same integers.
The four in-place passes are several times faster on a CPU than torch's own fake-quantize kernels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def integer_range(bits: int, *, weight: bool) -> tuple[int, int]:
    """Lowest and highest integer: symmetric for weights (8 bits: -127, 127), full for activations (-128, 127)."""
    hi = 2 ** (bits - 1) - 1
    return (-hi if weight else -hi - 1), hi


def along(scale: Tensor, axis: int, dims: int) -> Tensor:
    """View a scale [C] so that it broadcasts along `axis` of a tensor with `dims` axes; a 0-d scale stays."""
    if scale.dim() == 0:
        return scale
    shape = [1] * dims
    shape[axis] = -1
    return scale.view(shape)


def round_trip(x: Tensor, scale: Tensor, axis: int, lo: int, hi: int) -> Tensor:
    """Quantize and dequantize without a gradient; a new tensor of x's shape and type, computed in float32.

    x: any shape. scale: 0-d (per tensor) or [C] along `axis`, positive. lo, hi: the integers' range.
    """
    s = along(scale, axis, x.dim())
    return (x.float() / s).round_().clamp_(lo, hi).mul_(s).to(x.dtype)


@torch.library.custom_op(
    "gpusq::fake_quantize",
    mutates_args=(),
    schema="(Tensor x, Tensor scale, int axis, int lo, int hi) -> Tensor",
)
def fake_quantize(x: Tensor, scale: Tensor, axis: int, lo: int, hi: int) -> Tensor:
    """`round_trip` as one operator that survives torch.export; straight-through gradient, none for the scale.

    The gradient passes where x rounds into [lo, hi] and is zero elsewhere.
    """
    return round_trip(x, scale, axis, lo, hi)


@fake_quantize.register_fake
def _(x: Tensor, scale: Tensor, axis: int, lo: int, hi: int) -> Tensor:
    return torch.empty_like(x)


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, scale, ctx.axis, ctx.lo, ctx.hi = inputs
    ctx.save_for_backward(x, scale)


def _straight_through(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, scale = ctx.saved_tensors
    v = x / along(scale, ctx.axis, x.dim())
    return pass_inside(grad, v, ctx.lo, ctx.hi), None, None, None, None


fake_quantize.register_autograd(_straight_through, setup_context=_save_inputs)


def pass_inside(grad: Tensor, v: Tensor, lo: int, hi: int) -> Tensor:
    """`grad` where v = x / scale rounds into [lo, hi], zero elsewhere; one fused pass."""
    return torch.ops.aten.hardtanh_backward(grad, v, lo - 0.5, hi + 0.5)  # type: ignore[no-any-return]


class StraightThrough(torch.autograd.Function):
    """`round_trip` with a straight-through gradient for x, without the dispatch cost of a custom operator."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, axis: int, lo: int, hi: int) -> Tensor:
        s = along(scale, axis, x.dim())
        v = x.float() / s
        ctx.save_for_backward(v)
        ctx.lo, ctx.hi = lo, hi
        return v.round().clamp_(lo, hi).mul_(s).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (v,) = ctx.saved_tensors
        return pass_inside(grads[0], v.to(grads[0].dtype), ctx.lo, ctx.hi), None, None, None, None


class LearnedScale(torch.autograd.Function):
    """Learned step size (LSQ, Esser et al. 2020, arXiv:1902.08153) in the logarithm of the scale.

    The scale in force is `base * exp(log_gain)`: it cannot change its sign, and one step of Adam changes it by the
    same percentage whatever its size. With v = x / scale, d y / d scale is round(v) - v where x rounds into
    [lo, hi] and the bound elsewhere. The gradient of log_gain is multiplied by 1 / sqrt(n * hi), n being the number
    of elements per sample (per channel for a weight), so that it does not depend on how a batch is split.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_gain: Tensor, base: Tensor, axis: int, lo: int, hi: int) -> Tensor:
        s = along(base * log_gain.exp(), axis, x.dim())
        v = x.float() / s
        y = v.round().clamp_(lo, hi).mul_(s)
        ctx.save_for_backward(v, y, s)
        ctx.axis, ctx.lo, ctx.hi = axis, lo, hi
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        v, y, s = ctx.saved_tensors
        grad = grads[0].float()
        passed = pass_inside(grad, v, ctx.lo, ctx.hi)
        factor = (max(v.numel() // max(v.shape[0], 1), 1) * ctx.hi) ** -0.5
        if s.dim() == 0:
            log_grad = torch.dot(grad.reshape(-1), y.view(-1)) - s * torch.dot(passed.reshape(-1), v.view(-1))
        else:
            others = [d for d in range(v.dim()) if d != ctx.axis]
            log_grad = (grad * y).sub_(passed * v * s).sum(others)
        return passed.to(grads[0].dtype), log_grad * factor, None, None, None, None
