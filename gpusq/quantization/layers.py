"""Linear and Conv2d with quantizers around them, and putting quantizers into a module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpusq.errors import UnsupportedModelError
from gpusq.quantization.placement import QuantizerSpec
from gpusq.quantization.points import QuantPoint
from gpusq.quantization.quantizer import FakeQuantizer, Mode

LAYER_ROLES = ("weight", "input", "output")


class QuantLinear(nn.Linear):
    """nn.Linear with quantizers on input, weight and, where placed, output. Parameter names stay weight and bias."""

    weight_quantizer: nn.Module
    input_quantizer: nn.Module
    output_quantizer: nn.Module

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name torch gives it)
        """[..., in] -> [..., out]."""
        out = F.linear(self.input_quantizer(input), self.weight_quantizer(self.weight), self.bias)
        return cast(Tensor, self.output_quantizer(out))


class QuantConv2d(nn.Conv2d):
    """nn.Conv2d with quantizers on input, weight and, where placed, output."""

    weight_quantizer: nn.Module
    input_quantizer: nn.Module
    output_quantizer: nn.Module

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """[B, C, H, W] -> [B, out, H', W']."""
        out = self._conv_forward(self.input_quantizer(input), self.weight_quantizer(self.weight), self.bias)
        return cast(Tensor, self.output_quantizer(out))


QUANTIZED: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: QuantLinear, nn.Conv2d: QuantConv2d}


def insert(module: nn.Module, specs: Iterable[QuantizerSpec]) -> None:
    """Put the quantizers of `specs` into `module`, in place, all in mode "quantize" with scale 1.

    Raises UnsupportedModelError where a spec names no plain Linear or Conv2d, or no attention points.
    """
    specs = tuple(specs)
    for spec in specs:
        if spec.role in LAYER_ROLES:
            layer = _quantized_layer(module, spec.layer)
            if spec.shares is not None:
                continue
            channels = layer.weight.shape[spec.axis] if spec.axis is not None else None
            setattr(layer, f"{spec.role}_quantizer", _made(spec, channels, layer.weight.device))
        else:
            point = module.get_submodule(f"{spec.layer}.quant_points.{spec.role}")
            if not isinstance(point, QuantPoint):
                raise UnsupportedModelError(f"{spec.layer} has no attention point {spec.role}", do="use policy inputs")
            point.quantizer = _made(spec, None, next(module.parameters()).device)
    for spec in specs:  # when every leader has its quantizer, wherever it stands
        if spec.shares is not None:
            leader = _quantized_layer(module, spec.shares)
            _quantized_layer(module, spec.layer).input_quantizer = leader.input_quantizer


def _made(spec: QuantizerSpec, channels: int | None, device: torch.device) -> FakeQuantizer:
    quantizer = FakeQuantizer(spec.axis, channels, spec.bits).to(device)
    quantizer.mode = "quantize"
    return quantizer


def _quantized_layer(module: nn.Module, name: str) -> QuantLinear:
    """The layer of this name, turned into its quantized class with empty slots where it was plain."""
    layer = module.get_submodule(name)
    if type(layer) in QUANTIZED:
        layer.__class__ = QUANTIZED[type(layer)]
        for role in LAYER_ROLES:
            layer.add_module(f"{role}_quantizer", nn.Identity())
    if not isinstance(layer, (QuantLinear, QuantConv2d)):
        raise UnsupportedModelError(
            f"{name} must be a plain nn.Linear or nn.Conv2d to be quantized",
            got=type(layer).__name__,
            do="name it in keep_float, or make it a plain layer",
        )
    return cast(QuantLinear, layer)


def shared_inputs(module: nn.Module, names: Iterable[str], images: Tensor) -> dict[str, str]:
    """Layer -> the first of `names` that reads the very same tensor, for all but the first; from one pass.

    images: [B, C, H, W]. Views of one tensor with the same shape count as the same.
    """
    readers: dict[tuple[object, ...], str] = {}
    found: dict[str, str] = {}
    kept: list[Tensor] = []  # alive, so that no address is used twice
    handles = []

    def listener(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def listen(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0]
            kept.append(x)
            first = readers.setdefault((x.data_ptr(), x.shape, x.stride(), x._version), name)
            if first != name:
                found[name] = first

        return listen

    for name in names:
        handles.append(module.get_submodule(name).register_forward_pre_hook(listener(name)))
    try:
        with torch.no_grad():
            module(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def quantizers(module: nn.Module) -> Iterator[tuple[str, FakeQuantizer]]:
    """(name, quantizer) of all quantizers, in the order of the module."""
    for name, part in module.named_modules():
        if isinstance(part, FakeQuantizer):
            yield name, part


def set_mode(module: nn.Module, mode: Mode, *, learn_scales: bool = True) -> None:
    """Set the mode of all quantizers; scales train in mode "learn" only, and only where asked."""
    for _, quantizer in quantizers(module):
        quantizer.mode = mode
        quantizer.log_gain.requires_grad_(mode == "learn" and learn_scales)


def set_weight_ranges(module: nn.Module) -> None:
    """Weight scales from the largest absolute weight of each output channel."""
    for part in module.modules():
        if isinstance(part, (QuantLinear, QuantConv2d)) and isinstance(part.weight_quantizer, FakeQuantizer):
            part.weight_quantizer.set_range(part.weight.detach().flatten(1).abs().amax(dim=1))


def seal_scales(module: nn.Module) -> None:
    """Round every scale to an FP16 number of at least 2**-14, so that both ONNX files carry the same integers."""
    for _, quantizer in quantizers(module):
        quantizer.seal()
    set_mode(module, "quantize")


def scales(module: nn.Module) -> dict[str, Tensor]:
    """Quantizer name -> scale, on the CPU."""
    return {name: q.scale.detach().cpu().clone() for name, q in quantizers(module)}


def load_scales(module: nn.Module, found: Mapping[str, Tensor]) -> None:
    """Inverse of `scales`. Raises UnsupportedModelError where names or shapes differ."""
    own = dict(quantizers(module))
    if own.keys() != found.keys():
        raise UnsupportedModelError("scales must match the quantizers", got=f"{len(found)} for {len(own)} quantizers")
    with torch.no_grad():
        for name, scale in found.items():
            if own[name].scale.shape != scale.shape:
                raise UnsupportedModelError(f"the scale of {name} has another shape", got=str(tuple(scale.shape)))
            own[name].scale.copy_(scale)
