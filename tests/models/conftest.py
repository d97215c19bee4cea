"""Small models, built once."""

from __future__ import annotations

import pytest

from gpusq.models import LoadedModel, load_model

FAMILIES = ("vit", "deit", "swin", "dinov2")


@pytest.fixture(scope="session", params=FAMILIES)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    """The test preset of each family; not to be changed by a test."""
    return load_model(f"new:{request.param}-test", seed=3)
