"""Fake quantization: the operator that exports as Q/DQ, and the form whose scale is learned.

Both compute round(x / scale), clamped, times scale, with a true division and ties to even, as QuantizeLinear and
DequantizeLinear do, so that a trained model and its export carry the same integers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PER_TENSOR = -1
"""The `axis` of a scale that is one number."""


def spread(scale: Tensor, axis: int, dims: int) -> Tensor:
    """A per-channel scale shaped to broadcast over `axis` of a tensor with `dims` axes; a per-tensor one as it is."""
    if axis == PER_TENSOR or scale.dim() == 0:
        return scale
    return scale.view([-1 if d == axis % dims else 1 for d in range(dims)])


def rounded(x: Tensor, scale: Tensor, axis: int, lo: int, hi: int) -> Tensor:
    """What `fake_quantize` computes, without a gradient and without the cost of an operator's dispatch."""
    s = spread(scale, axis, x.dim())
    return torch.div(x, s).round_().clamp_(lo, hi).mul_(s)


@torch.library.custom_op("gpusq::fake_quantize", mutates_args=())
def fake_quantize(x: Tensor, scale: Tensor, axis: int, lo: int, hi: int) -> Tensor:
    """round(x / scale) clamped to [lo, hi], times scale; zero stays zero.

    x: any shape, floating. scale: 0-d (axis -1) or 1-d along `axis`, positive. Exports as QuantizeLinear and
    DequantizeLinear with zero point 0. Straight-through gradient inside the range, none outside.
    """
    return rounded(x, scale, axis, lo, hi)


@fake_quantize.register_fake
def _(x: Tensor, scale: Tensor, axis: int, lo: int, hi: int) -> Tensor:
    return torch.empty_like(x)


def pass_inside(grad: Tensor, scaled: Tensor, lo: int, hi: int) -> Tensor:
    """`grad` where x / scale rounds into [lo, hi], zero elsewhere; one fused kernel."""
    return torch.ops.aten.hardtanh_backward(grad, scaled, lo - 0.5, hi + 0.5)  # type: ignore[no-any-return]


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, int, int, int], output: Tensor) -> None:
    x, scale, axis, ctx.lo, ctx.hi = inputs
    ctx.save_for_backward(x / spread(scale, axis, x.dim()))


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (scaled,) = ctx.saved_tensors
    return pass_inside(grad, scaled, ctx.lo, ctx.hi), None, None, None, None


fake_quantize.register_autograd(_backward, setup_context=_setup)


class LearnedQuantize(torch.autograd.Function):
    """The same function with a gradient for the scale (LSQ). Source: Esser et al. 2020, arXiv:1902.08153."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, axis: int, lo: int, hi: int, gradient_scale: float) -> Tensor:
        """As `fake_quantize`; gradient_scale multiplies the scale's gradient."""
        s = spread(scale, axis, x.dim())
        scaled = torch.div(x, s)
        integers = scaled.round().clamp_(lo, hi)
        ctx.save_for_backward(scaled, integers, s)
        ctx.lo, ctx.hi, ctx.gradient_scale, ctx.shape = lo, hi, gradient_scale, scale.shape
        return integers * s

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Straight through for x; for the scale, round(x/s) - x/s inside the range and the bound outside."""
        (grad,) = grads
        scaled, integers, s = ctx.saved_tensors
        passed = pass_inside(grad, scaled, ctx.lo, ctx.hi)
        if not ctx.needs_input_grad[1]:
            return passed, None, None, None, None, None
        per_value = integers.mul(grad).sub_(scaled.mul(passed))
        kept = [d for d in range(per_value.dim()) if s.dim() == 0 or s.shape[d] == 1]
        scale_grad = per_value.sum() if s.dim() == 0 else per_value.sum(dim=kept)
        return passed, (scale_grad * ctx.gradient_scale).reshape(ctx.shape), None, None, None, None
