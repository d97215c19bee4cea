"""Models whose outputs are neither classes nor boxes, and the classifiers beside the detectors' presets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gpusq.errors import UnsupportedModelError
from gpusq.models import ModelDescription, load_model, plain_tensors, rebuild, trace_workload
from gpusq.models.detector_presets import DETECTOR_PRESETS
from tests.models.detector_samples import loaded, original, pictures
from tests.models.model_samples import write_model

OUTPUTS = {
    "mask2former-mini": ("class_queries_logits", "masks_queries_logits"),
    "segformer-mini": ("logits",),
    "dinov3-mini": ("last_hidden_state", "pooler_output"),
}
EACH = pytest.mark.parametrize("name", OUTPUTS)


@EACH
def test_outputs_are_the_librarys_in_order(name: str) -> None:
    model = loaded(name)
    x = pictures(model, 2)
    with torch.no_grad():
        expected, found = original(name)(x), model.module(x)
    assert (model.description.task, model.description.outputs) == ("tensors", OUTPUTS[name])
    assert len(found) == len(OUTPUTS[name])
    for field, tensor in zip(OUTPUTS[name], found, strict=True):
        torch.testing.assert_close(tensor, expected[field], rtol=1e-4, atol=1e-4)


@EACH
def test_rebuilt_bit_equal_with_the_same_blocks(name: str) -> None:
    model = loaded(name)
    description = ModelDescription.model_validate_json(model.description.model_dump_json())
    twin = rebuild(description, plain_tensors(model.module), {})
    x = pictures(model, 2)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(model.module(x), twin.module(x), strict=True))
    assert (twin.blocks, twin.keep_dense) == (model.blocks, model.keep_dense)
    assert len(model.blocks) == {"mask2former-mini": 8, "segformer-mini": 4, "dinov3-mini": 2}[name]


def test_heads_that_give_an_output_stay_dense() -> None:
    assert "model.class_predictor" in loaded("mask2former-mini").keep_dense
    assert "model.decode_head.classifier" in loaded("segformer-mini").keep_dense
    assert loaded("dinov3-mini").keep_dense == {}


def test_poolformer_is_a_classifier_with_blocks_of_convolutions() -> None:
    model = loaded("poolformer-mini")
    assert (model.description.task, len(model.blocks)) == ("classification", 5)
    with torch.no_grad():
        assert model.module(pictures(model, 2)).shape == (2, 4)


@pytest.mark.parametrize("name", [n for n in DETECTOR_PRESETS if n.endswith("mini")])
def test_mini_presets_are_small(name: str) -> None:
    model = loaded(name)
    assert sum(t.numel() for t in plain_tensors(model.module).values()) < 4e6
    assert trace_workload(model.module, model.description.input_shape).macs < 1e9


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in DETECTOR_PRESETS if not n.endswith("mini")])
def test_full_presets_build_and_run(name: str) -> None:
    model = load_model(f"new:{name}?size=320")
    with torch.no_grad():
        logits, boxes = model.module(pictures(model, 1))
    assert bool(torch.isfinite(logits).all() and torch.isfinite(boxes).all())


USER = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 8, stride=8)

    def forward(self, x):
        x = self.embed(x)
        return x, x.mean((2, 3))


def build():
    return Net(), {"input_shape": (3, 32, 32), "task": "tensors", "outputs": ["map", "mean"]}
"""


def test_a_users_model_may_give_any_tensors(tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path / "net.py", USER))
    assert (model.description.outputs, model.description.classes) == (("map", "mean"), ())
    unnamed = USER.replace(', "outputs": ["map", "mean"]', "")
    assert load_model(write_model(tmp_path / "two.py", unnamed)).description.outputs == ("output_0", "output_1")
    with pytest.raises(UnsupportedModelError, match="task is one of"):
        load_model(write_model(tmp_path / "odd.py", USER.replace('"tensors"', '"poses"')))
