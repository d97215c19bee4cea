"""Models whose layers share a weight: they go all the way; one layer in two places is refused at the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpusq.artifacts import Store
from gpusq.errors import UnsupportedModelError
from tests.chain import image_folder, recipe_of, run_chain

TIED = """
from torch import nn

class Net(nn.Module):
    def __init__(self, shared):
        super().__init__()
        self.stem, self.a, self.head = nn.Linear(48, 32), nn.Linear(32, 32), nn.Linear(32, 4)
        self.b = self.a if shared else nn.Linear(32, 32)
        self.b.weight = self.a.weight

    def forward(self, x):
        x = nn.functional.gelu(self.stem(x.flatten(1)))
        return self.head(nn.functional.gelu(self.b(nn.functional.gelu(self.a(x)))))

def weight():
    return Net(False), {"input_shape": (3, 4, 4), "classes": 4}

def module():
    return Net(True), {"input_shape": (3, 4, 4), "classes": 4}
"""


def test_a_model_with_tied_weights_goes_all_the_way(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(TIED)
    images = image_folder(tmp_path / "images")
    result = run_chain(tmp_path / "store", recipe_of(f"{tmp_path / 'net.py'}:weight", images))
    stored = 48 * 32 + 2 * 32 * 32 + 32 * 4 + 3 * 32 + 4
    assert {row.size.parameters for row in result.report.rows} == {stored}


def test_a_layer_in_two_places_is_refused_before_any_other_stage(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(TIED)
    images = image_folder(tmp_path / "images")
    with pytest.raises(UnsupportedModelError, match="a and b are the same module"):
        run_chain(tmp_path / "store", recipe_of(f"{tmp_path / 'net.py'}:module", images))
    assert Store(tmp_path / "store").artifacts() == []
