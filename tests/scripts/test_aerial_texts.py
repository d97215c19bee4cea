"""What the detector demo says of its backbone is what its recipe does."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from gpusq.recipe import load_recipe
from gpusq.stages import Prune, Qat

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "export/recipes/aerial-detr-demo.toml"
TEXTS = (
    RECIPE,
    "scripts/aerial_detector.py",
    "scripts/demo_detr.sh",
    "scripts/AERIAL.md",
    "benchmarks/aerial_detr_demo.py",
    "benchmarks/results/aerial_detr_demo.md",
)


def test_the_backbone_is_frozen_in_training_alone() -> None:
    recipe = load_recipe(ROOT / RECIPE)
    assert recipe.train is not None
    assert recipe.train.freeze == ("embed.0.vit.*",)
    assert recipe.prune.epochs > 0
    assert recipe.qat.epochs > 0
    assert not any(field.name == "freeze" for stage in (Prune, Qat) for field in fields(stage))


@pytest.mark.parametrize("name", TEXTS)
def test_whoever_calls_it_frozen_says_until_when(name: str) -> None:
    words = " ".join((ROOT / name).read_text(encoding="utf-8").replace("#", " ").split())
    assert "frozen" in words
    assert "move all weights" in words
