"""Layers that quantize what they multiply, and the swap that puts them in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

from torch import Tensor, nn

from gpusq.errors import UnsupportedModelError
from gpusq.quantization.placement import QuantizerSpec
from gpusq.quantization.points import QuantPoint
from gpusq.quantization.quantizer import FakeQuantizer


class _QuantMixin(nn.Module):
    """The three quantizers of a layer; nn.Identity where a policy places none."""

    weight_quantizer: nn.Module
    input_quantizer: nn.Module
    output_quantizer: nn.Module

    def _add_slots(self) -> None:
        self.weight_quantizer = nn.Identity()
        self.input_quantizer = nn.Identity()
        self.output_quantizer = nn.Identity()


class QuantLinear(nn.Linear, _QuantMixin):
    """nn.Linear whose weight [out, in], input [..., in] and, if asked, output [..., out] are fake-quantized."""

    @classmethod
    def of(cls, layer: nn.Linear) -> QuantLinear:
        """The same layer, holding the very same parameters, with empty quantizer slots."""
        new = cls(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        return _adopt(new, layer)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's own name
        """[..., in] -> [..., out]."""
        weight = self.weight_quantizer(self.weight)
        return cast(Tensor, self.output_quantizer(nn.functional.linear(self.input_quantizer(input), weight, self.bias)))


class QuantConv2d(nn.Conv2d, _QuantMixin):
    """nn.Conv2d whose weight [O, I/groups, kh, kw], input [B, I, H, W] and, if asked, output are fake-quantized."""

    @classmethod
    def of(cls, layer: nn.Conv2d) -> QuantConv2d:
        """The same layer, holding the very same parameters, with empty quantizer slots."""
        new = cls(
            layer.in_channels,
            layer.out_channels,
            cast("tuple[int, int]", layer.kernel_size),
            cast("tuple[int, int]", layer.stride),
            cast("str | tuple[int, int]", layer.padding),
            cast("tuple[int, int]", layer.dilation),
            layer.groups,
            layer.bias is not None,
            layer.padding_mode,
            device="meta",
        )
        return _adopt(new, layer)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Conv2d's own name
        """[B, I, H, W] -> [B, O, H', W']."""
        weight = self.weight_quantizer(self.weight)
        return cast(Tensor, self.output_quantizer(self._conv_forward(self.input_quantizer(input), weight, self.bias)))


def insert(module: nn.Module, specs: Iterable[QuantizerSpec]) -> None:
    """Swap in quantizing layers and fill quantization points, in place; all start in mode `off`.

    Parameters keep their names and identity, so masks and optimizers by name stay valid.
    Raises UnsupportedModelError for a layer that does not exist or whose forward is not a plain Linear or Conv2d.
    """
    for spec in specs:
        owner = _find(module, spec.layer)
        if isinstance(owner, QuantPoint):
            owner.quantizer = FakeQuantizer(spec.name, bits=spec.bits).to(_device(module))
            continue
        layer = _quantizing(module, spec.layer, owner)
        channels = None if spec.axis is None else layer.weight.shape[spec.axis]
        quantizer = FakeQuantizer(spec.name, channels=channels, axis=spec.axis or 0, bits=spec.bits)
        setattr(layer, f"{spec.role}_quantizer", quantizer.to(layer.weight.device).train(layer.training))


def quantizers(module: nn.Module) -> Iterator[tuple[str, FakeQuantizer]]:
    """Every quantizer by its path; one that several layers share appears under each of its paths."""
    for name, child in module.named_modules(remove_duplicate=False):
        if isinstance(child, FakeQuantizer):
            yield name, child


def quant_points(module: nn.Module) -> tuple[str, ...]:
    """Paths of the QuantPoints of a model, in module order."""
    return tuple(name for name, child in module.named_modules() if isinstance(child, QuantPoint))


def float_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict without the quantizers' tensors: what `insert` found, for `weights.safetensors`."""
    prefixes = tuple(f"{name}." for name, _ in quantizers(module))
    return {k: v for k, v in module.state_dict().items() if not k.startswith(prefixes)}


def _adopt(new: nn.Module, old: nn.Module) -> QuantLinear & QuantConv2d:  # type: ignore
    ...
