"""Small models, built once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gpusq.models import LoadedModel, load_model

FAMILIES = ("vit", "deit", "swin", "dinov2")


@pytest.fixture(scope="session", params=FAMILIES)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    """The test preset of each family; not to be changed by a test."""
    return load_model(f"new:{request.param}-test", seed=3)


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
