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
"""Agreement (0 to 1) that is enough, whatever the model does by itself."""
MARGIN = 0.1
"""How much lower than the self-agreement a file may be: a dozen images hold few independent answers."""
ROUNDING = {"float32": 2.0**-23, "float16": 2.0**-11}
"""Relative change of every layer's output that stands for the arithmetic of each file: the spacing of its numbers."""


def self_agreement(model: Artifact, exported: Artifact) -> dict[str, float]:
    """PyTorch beside itself on the stored samples, for each of ROUNDING. exported: the ONNX artifact of `model`."""
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
        with noisy_layers(state.module, size):
            changed = run_module(state.module, description.outputs, pixels)
        found[name] = float(asdict(compare_outputs(facts, expected, changed))["top1"])
    return found


@contextmanager
def noisy_layers(module: nn.Module, size: float) -> Iterator[None]:
    """Inside the block the output of every Linear and Conv2d is multiplied by 1 + noise, uniform in +-size."""
    import torch
    from torch import Tensor, nn

    generator = torch.Generator().manual_seed(0)

    def shake(part: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        return output * (1 + size * (2 * torch.rand(output.shape, generator=generator) - 1))

    handles = [p.register_forward_hook(shake) for p in module.modules() if isinstance(p, (nn.Linear, nn.Conv2d))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_agreement(parity: dict[str, Any], own: float, what: str) -> None:
    """Raises ParityError where a file agrees with PyTorch less than `own` asks (see ASKED and MARGIN)."""
    least = min(ASKED, own - MARGIN)
    if parity["top1"] < least:
        raise ParityError(
            f"zoo: {what} must agree with PyTorch on {least:.1%}; PyTorch agrees with itself on {own:.1%} when the "
            "outputs of its layers change by the rounding of that file",
            got=f"{parity['top1']:.1%}",
            do="compare the layers' outputs",
        )
