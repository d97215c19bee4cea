"""The tensors of a module: plain, complete and finite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gpusq.errors import NonFiniteError, UnsupportedModelError


def plain_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name: detached, contiguous, on the CPU, no memory shared (tied ones too)."""
    return {n: t.detach().to("cpu", copy=True).contiguous() for n, t in module.state_dict().items()}


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise NonFiniteError naming the first tensor that holds NaN or infinity, and the first index in it."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or bool(torch.isfinite(tensor.sum())):
            continue
        bad = torch.nonzero(~torch.isfinite(tensor))
        if len(bad):
            first = tuple(bad[0].tolist())
            raise NonFiniteError(
                f"{name} holds a value that is not finite",
                got=f"{tensor[first].item()} at index {list(first)}, {len(bad)} such values",
                do="train or convert the model again; nothing can be computed from these weights",
            )


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into a module, all of them and nothing else. Raises UnsupportedModelError naming a misfit."""
    expected = module.state_dict()
    missing, unknown = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    if missing or unknown:
        raise UnsupportedModelError(
            "the rebuilt model and its tensors have the same names",
            got=f"{len(missing)} missing and {len(unknown)} unknown, the first {min(missing | unknown)}",
            do="rebuild with the library versions named in the artifact's manifest",
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise UnsupportedModelError(
                f"{name} has shape {list(expected[name].shape)}", got=str(list(tensor.shape)), do="check the source"
            )
    module.load_state_dict(dict(tensors), strict=True)
