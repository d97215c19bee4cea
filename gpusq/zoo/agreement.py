"""How far a file may be from PyTorch: no further than PyTorch is from itself.

Rounding to integers is a cliff, and so is the choice of queries. In a network with fresh weights, which has learned
nothing that would hold answers apart, a change in the last bit of a sum moves boxes and classes. So each file is held
to what the PyTorch model itself shows when the output of every layer changes by the rounding of the file's arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gpusq.errors import ParityError

if TYPE_CHECKING:
    from torch import nn

    from gpusq.artifacts import Artifact

ASKED = 0.9
"""Agreement (0 to 1) that is enough, whatever the model does by itself, and the least of the model with itself."""
ASKED_IOU = 0.85
"""The same of the mean overlap of paired boxes (0 to 1)."""
MARGIN = 0.1
"""How much lower than the model's own figure a file's may be: a dozen images hold few independent answers."""
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11}
"""Relative change of every layer's output that stands for the arithmetic of each file.

float16: the spacing of its numbers, for outputs are rounded to it. float32: half the spacing for each product, times
the root of their number: a runtime sums them in another order.
"""


def self_agreement(model: Artifact, exported: Artifact) -> dict[str, dict[str, float]]:
    """PyTorch beside itself on the stored samples, for each of ROUNDING: {"top1", and of detectors "mean_iou"}.

    exported: the ONNX artifact of `model`.
    """
    from safetensors.numpy import load

    from gpusq.graph.output_parity import compare_outputs
    from gpusq.stages.judging import run_module
    from gpusq.stages.model_files import open_model

    state = open_model(model)
    expected = load(exported.read("samples.safetensors"))
    pixels = expected.pop("pixel_values")
    description = state.loaded.description
    facts: dict[str, Any] = description.model_dump(mode="json")
    expected = {name: expected[name] for name in description.outputs}
    found = {}
    for name, size in ROUNDING.items():
        with noisy_layers(state.module, size, sums=name == "float32"):
            changed = run_module(state.module, description.outputs, pixels)
        parity = asdict(compare_outputs(facts, expected, changed))
        found[name] = {key: float(parity[key]) for key in ("top1", "mean_iou") if parity[key] is not None}
    return found


@contextmanager
def noisy_layers(module: nn.Module, size: float, sums: bool = False) -> Iterator[None]:
    """Inside the block the output of every Linear and Conv2d is multiplied by 1 + noise, uniform in +-size.

    sums: size is that of one product; a layer that sums K of them has sqrt(K) times as much.
    """
    import torch
    from torch import Tensor, nn

    generator = torch.Generator().manual_seed(0)

    def shake(part: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        weight = part.get_parameter("weight") if sums else None
        most = size if weight is None else size * (weight.numel() / len(weight)) ** 0.5
        return output * (1 + most * (2 * torch.rand(output.shape, generator=generator) - 1))

    handles = [p.register_forward_hook(shake) for p in module.modules() if isinstance(p, (nn.Linear, nn.Conv2d))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def shows(own: dict[str, float]) -> bool:
    """Whether a comparison with the model says something about a file: the model itself keeps ASKED and ASKED_IOU."""
    return own["top1"] >= ASKED and own.get("mean_iou", 1.0) >= ASKED_IOU


def check_agreement(parity: dict[str, Any], own: dict[str, float], what: str) -> None:
    """Raises ParityError where a file is further from PyTorch than `own` excuses (see ASKED, ASKED_IOU and MARGIN).

    parity: of the file, `Parity` as data. own: of `self_agreement`; where it does not show anything (`shows`), nothing
    is judged, and the table says so.
    """
    if not shows(own):
        return
    bars = [("top1", ASKED, "agree with PyTorch on")]
    if parity.get("mean_iou") is not None and "mean_iou" in own:
        bars.append(("mean_iou", ASKED_IOU, "find boxes that overlap those of PyTorch by"))
    for name, asked, verb in bars:
        least = min(asked, own[name] - MARGIN)
        if parity[name] < least:
            raise ParityError(
                f"zoo: {what} must {verb} {least:.1%}; PyTorch reaches {own[name]:.1%} with itself when the outputs of "
                "its layers change by the rounding of that file",
                got=f"{parity[name]:.1%}",
                do="compare the layers' outputs",
            )
