"""Images, logits and model files for the tests of this room."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from gpusq.models import LoadedModel


def images(loaded: LoadedModel, batch: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(batch, *loaded.description.input_shape, generator=torch.Generator().manual_seed(seed))


def logits(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        result = module(x)
    return result if isinstance(result, Tensor) else result.logits


def write_model(path: Path, source: str) -> str:
    """Write a model file; returns the specification of its function `build`."""
    path.write_text(source, encoding="utf-8")
    return f"{path}:build"
