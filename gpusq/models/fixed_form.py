"""Simplify a transformers detector for images of one size, all of whose pixels count; the same function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gpusq.errors import UnsupportedModelError
from gpusq.models.probe import evaluating, example_input, run_forward

FROZEN_NORM = "FrozenBatchNorm2d"
NORM_EPSILON = 1e-5
VIEWED = "ConditionalDetr"
"""Start of class names of models that view their position embeddings by the batch."""
CONV, NORM = "convolution", "normalization"
"""Attributes under which transformers' backbones hold a convolution and the norm right behind it."""


class FeatureMaps(nn.Module):
    """A convolutional backbone of the DETR family; gives each map with a mask of ones of batch 1, which broadcasts."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """pixel_values [B, 3, H, W] -> (map [B, C, h, w], ones [1, h, w] bool) of each stage asked for."""
        maps = self.model(pixel_values).feature_maps
        return [(x, torch.ones((1, *x.shape[-2:]), dtype=torch.bool, device=x.device)) for x in maps]


class ConstantPositions(nn.Module):
    """Sine position embeddings of the sizes seen, as constants of batch 1; `batched`: expanded to the map's batch."""

    def __init__(self, tables: dict[tuple[int, int], Tensor], batched: bool = False) -> None:
        super().__init__()
        self.sizes, self.batched = tuple(tables), batched
        for (height, width), table in tables.items():
            self.register_buffer(f"at_{height}x{width}", table, persistent=False)

    def forward(self, *arguments: Any, **named: Any) -> Tensor:
        """The table of the size that the arguments tell, as the module it replaces takes them."""
        size = _size(named)
        if size not in self.sizes:
            known = ", ".join(f"{h}x{w}" for h, w in self.sizes)
            raise UnsupportedModelError(
                f"position embeddings were stored for maps of {known}",
                got=f"{size[0]}x{size[1]}",
                do="give images of the size in the model's description",
            )
        table: Tensor = getattr(self, f"at_{size[0]}x{size[1]}")
        return table.expand(named["shape"][0], *table.shape[1:]) if self.batched else table


def fix_form(module: nn.Module, input_shape: tuple[int, int, int]) -> nn.Module:
    """Simplify `module`, in place; returns it. Everything becomes trainable.

    Frozen batch norms are folded into the convolution before them; position embeddings become constants; masks, which
    are all ones where images are resized and never padded, are of batch 1 or gone. Raises UnsupportedModelError.
    """
    fold_frozen_norms(module)
    _store_positions(module, input_shape)
    for part in list(module.modules()):
        for name, child in list(part.named_children()):
            if type(child).__name__.endswith("ConvEncoder") and [n for n, _ in child.named_children()] == ["model"]:
                setattr(part, name, FeatureMaps(child.get_submodule("model")))
        if type(part).__name__.endswith("MultiscaleDeformableAttention"):
            part.register_forward_pre_hook(_without_mask, with_kwargs=True)
    return module.requires_grad_(True)


def fold_frozen_norms(module: nn.Module) -> int:
    """Fold each frozen batch norm into its convolution, in place; how many were folded. The same function."""
    count = 0
    for part in list(module.modules()):
        conv, norm = getattr(part, CONV, None), getattr(part, NORM, None)
        if isinstance(conv, nn.Conv2d) and type(norm).__name__.endswith(FROZEN_NORM):
            _fold(conv, norm)
            setattr(part, NORM, nn.Identity())
            count += 1
    return count


def _fold(conv: nn.Conv2d, norm: Any) -> None:
    with torch.no_grad():
        scale = norm.weight * (norm.running_var + NORM_EPSILON).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        if conv.bias is not None:
            shift = shift + conv.bias * scale
        conv.weight = nn.Parameter(conv.weight * scale.reshape(-1, 1, 1, 1))
        conv.bias = nn.Parameter(shift.clone())


def _store_positions(module: nn.Module, input_shape: tuple[int, int, int]) -> None:
    """Replace each sine position embedding by what it gives in a pass over one image."""
    tables: dict[nn.Module, dict[tuple[int, int], Tensor]] = {}

    def note(part: nn.Module, arguments: Any, named: dict[str, Any], output: Tensor) -> None:
        tables.setdefault(part, {})[_size(named)] = output.detach().clone()

    sines = [m for m in module.modules() if type(m).__name__.endswith("SinePositionEmbedding")]
    handles = [m.register_forward_hook(note, with_kwargs=True) for m in sines]
    try:
        with evaluating(module), torch.no_grad():
            run_forward(module, example_input(module, input_shape))
    finally:
        for handle in handles:
            handle.remove()
    for part in list(module.modules()):
        for name, child in list(part.named_children()):
            if child in tables:
                setattr(part, name, ConstantPositions(tables[child], type(child).__name__.startswith(VIEWED)))


def _size(named: dict[str, Any]) -> tuple[int, int]:
    """(height, width) of the map in the keyword arguments of a position embedding."""
    if "shape" in named:
        return int(named["shape"][-2]), int(named["shape"][-1])
    if "height" in named:
        return int(named["height"]), int(named["width"])
    raise UnsupportedModelError(
        "a position embedding is told the size of its map", got=", ".join(named) or "nothing", do="update transformers"
    )


def _without_mask(part: nn.Module, arguments: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Deformable attention clears masked values; with a mask of ones there are none."""
    return arguments, {**named, "attention_mask": None} if "attention_mask" in named else named
