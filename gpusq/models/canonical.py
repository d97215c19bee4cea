"""The canonical form: every product with weights is an nn.Linear or a true convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gpusq.models.attention import UnpackedAttention


class PatchLinear(nn.Module):
    """A patch embedding (convolution with stride == kernel) as an nn.Linear over unfolded patches; the same function.

    linear: [out, C * P_h * P_w], columns in the order of the convolution's weight. Reads like the convolution it
    replaces: weight, bias, kernel_size, stride, in_channels, out_channels.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.kernel_size = self.stride = (conv.kernel_size[0], conv.kernel_size[1])
        matrix = conv.weight.detach().flatten(1).clone()
        self.linear = nn.Linear(
            matrix.shape[1],
            matrix.shape[0],
            bias=conv.bias is not None,
            device=torch.device("meta"),
            dtype=matrix.dtype,
        )
        self.linear.weight = nn.Parameter(matrix)
        if conv.bias is not None:
            self.linear.bias = nn.Parameter(conv.bias.detach().clone())
        self.train(conv.training)

    @property
    def weight(self) -> Tensor:
        """The linear's weight, [out, C * P_h * P_w]."""
        return self.linear.weight

    @property
    def bias(self) -> Tensor | None:
        """The linear's bias, [out], or None."""
        return self.linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, out, H // P_h, W // P_w]; rows and columns that fill no patch are dropped."""
        (ph, pw), (height, width) = self.kernel_size, x.shape[-2:]
        rows, columns = height // ph, width // pw
        if (rows * ph, columns * pw) != (height, width):
            x = x[..., : rows * ph, : columns * pw]
        patches = x.reshape(-1, self.in_channels, rows, ph, columns, pw).permute(0, 2, 4, 1, 3, 5)
        out: Tensor = self.linear(
            patches.reshape(-1, rows * columns, self.in_channels * ph * pw)
        )  # [B, rows * columns, out]
        out = out.transpose(1, 2)
        return out.reshape(-1, self.out_channels, rows, columns)


def canonicalise(module: nn.Module) -> nn.Module:
    """Replace patch convolutions and packed attention inside `module`, in place; returns the module.

    Those with a forward of their own or with hooks compute something else and stay as they are (`packed_layers`). A
    module that is itself one of them is replaced by its canonical form. Raises UnsupportedModelError.
    """
    made: dict[int, nn.Module] = {}  # by id of the replaced one: what sits in two places stays one module
    replaced = list(module.modules())  # held, so that no id is given to another module meanwhile
    own = _canonical_form(module)
    if own is not None:
        return own
    for parent in replaced:
        for name, child in list(parent._modules.items()):  # named_children() hides a child's second name
            new = made.get(id(child)) or (_canonical_form(child) if child is not None else None)
            if new is not None:
                made[id(child)] = new
                setattr(parent, name, new)
        if isinstance(parent, nn.TransformerEncoder):
            parent.use_nested_tensor = False  # its nested path reads packed weights
    return module


def packed_layers(module: nn.Module) -> tuple[str, ...]:
    """Names of the output projections of attention that `canonicalise` left packed.

    Nothing else of such attention is a layer: q, k and v are products with one parameter.
    """
    attention = [(n, m) for n, m in module.named_modules() if isinstance(m, nn.MultiheadAttention)]
    return tuple(f"{name}.out_proj".lstrip(".") for name, _ in attention)


def _canonical_form(module: nn.Module) -> nn.Module | None:
    if isinstance(module, nn.MultiheadAttention):
        return UnpackedAttention(module) if _computes_as(module, nn.MultiheadAttention, "merge_masks") else None
    if isinstance(module, nn.Conv2d) and _is_patch_embedding(module):
        return PatchLinear(module) if _computes_as(module, nn.Conv2d, "_conv_forward") else None
    return None


def _computes_as(module: nn.Module, kind: Any, step: str) -> bool:
    """Whether a module computes what torch's own class does: its forward and its inner `step`, and no hooks on it."""
    own = all(getattr(type(module), n) is getattr(kind, n) and n not in vars(module) for n in ("forward", step))
    return own and not module._forward_hooks and not module._forward_pre_hooks


def _is_patch_embedding(conv: nn.Conv2d) -> bool:
    plain = conv.groups == 1 and tuple(conv.dilation) == (1, 1) and conv.padding in ((0, 0), "valid")
    return plain and tuple(conv.stride) == tuple(conv.kernel_size) and max(conv.kernel_size) > 1
