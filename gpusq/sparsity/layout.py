"""Weights and inputs as the matrices of a GEMM, with groups of four along input channels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from gpusq.errors import PatternError


def gemm_matrix(weight: Tensor, groups: int = 1) -> Tensor:
    """The weight as a matrix [out, K] whose last axis is the one that 2:4 sparsity runs along.

    weight: of a Linear [out, in], or of a convolution [out, in / groups, *kernel]; its columns are ordered
    (kernel position, input channel), input channel fastest, so that groups of four run along input channels.
    """
    if weight.dim() == 2:
        return weight
    if weight.dim() < 2 or weight.shape[0] % groups:
        raise PatternError(
            "a weight has at least two axes and its first is divisible by groups",
            got=f"shape {list(weight.shape)}, groups {groups}",
            do="give the weight of a Linear or a convolution",
        )
    return weight.movedim(1, -1).reshape(weight.shape[0], -1)


def from_gemm_matrix(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """Inverse of `gemm_matrix`: the weight of the given shape."""
    if len(shape) == 2:
        return matrix.reshape(*shape)
    out, channels, *kernel = shape
    return matrix.reshape(out, *kernel, channels).movedim(-1, 1).contiguous()


def gemm_inputs(layer: nn.Module, x: Tensor) -> Tensor:
    """The rows that multiply `gemm_matrix(layer.weight)`: [rows, K], columns in the same order.

    layer: Linear with x [..., K], or Conv2d with x [B, C, H, W] or [C, H, W]. The groups of a grouped convolution
    are stacked along the rows: they share one set of statistics.
    """
    if isinstance(layer, nn.Conv2d):
        return _unfolded(layer, x)
    return x.reshape(-1, x.shape[-1])


def _unfolded(conv: nn.Conv2d, x: Tensor) -> Tensor:
    x = x.unsqueeze(0) if x.dim() == 3 else x
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    x = F.pad(x, conv._reversed_padding_repeated_twice, mode=mode)
    dilation, stride = (conv.dilation[0], conv.dilation[1]), (conv.stride[0], conv.stride[1])
    kernel = (conv.kernel_size[0], conv.kernel_size[1])
    columns = F.unfold(x, kernel, dilation=dilation, stride=stride)  # [B, C * kh * kw, L]
    batch, _, places = columns.shape
    per_group = conv.in_channels // conv.groups
    split = columns.view(batch, conv.groups, per_group, kernel[0] * kernel[1], places)
    return split.permute(0, 1, 4, 3, 2).reshape(batch * conv.groups * places, -1)
