"""Detectors from a user's file: what their facts must tell, their third output, and the layers that give boxes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gpusq.distillation import detection_loss
from gpusq.errors import ClassMismatchError, UnsupportedModelError
from gpusq.models import LoadedModel, gemm_layers, load_model, prunable
from gpusq.models.layers import BOX_HEAD_REASON, CLASS_HEAD_REASON
from tests.models.detector_samples import pictures
from tests.models.model_samples import write_model

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 8, stride=8)
        self.cls = nn.Linear(16, 2)
        self.reg = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        logits, boxes = self.cls(x), self.reg(x).sigmoid()
        return THIRD

def build():
    return Net(), {"input_shape": (3, 32, 32), FACTS}
"""


def detector(tmp_path: Path, facts: str = '"classes": 2', third: str = "(logits, boxes)", **more: int) -> LoadedModel:
    source = SOURCE.replace("FACTS", facts).replace("THIRD", third)
    return load_model(write_model(tmp_path / "net.py", source), **more)


@pytest.mark.parametrize("asked", [None, 1, 2])
def test_the_activation_is_never_told_by_the_classes_of_the_images(tmp_path: Path, asked: int | None) -> None:
    with pytest.raises(UnsupportedModelError, match='2 logits for each query and neither in its facts; add "activ'):
        load_model(
            write_model(tmp_path / "net.py", SOURCE.replace("FACTS", "").replace("THIRD", "(logits, boxes)")),
            classes=asked,
        )


@pytest.mark.parametrize(
    ("facts", "activation", "names"),
    [
        ('"classes": ["car"]', "softmax", ("car",)),
        ('"classes": ["car", "dog"]', "sigmoid", ("car", "dog")),
        ('"activation": "softmax"', "softmax", ("0",)),
        ('"activation": "sigmoid"', "sigmoid", ("0", "1")),
    ],
)
def test_its_own_facts_tell_the_activation(tmp_path: Path, facts: str, activation: str, names: tuple[str, ...]) -> None:
    description = detector(tmp_path, facts).description
    assert (description.activation, description.classes) == (activation, names)


def test_classes_that_fit_neither_activation_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="2 logits for each query and 3 classes in its facts"):
        detector(tmp_path, '"classes": 3')


def test_images_with_another_number_of_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ClassMismatchError, match=r"2 columns of logits: 2 classes .sigmoid.*and 1 class asked for"):
        detector(tmp_path, '"activation": "sigmoid"', classes=1)


@pytest.mark.parametrize(
    "third", ["x", "(x, x)", "[x]", "{'features': x}", "None", "3", "[(logits, boxes), x]", "[(logits, boxes, x)]"]
)
def test_a_third_output_of_another_make_is_left_out(tmp_path: Path, third: str) -> None:
    loaded = detector(tmp_path, third=f"(logits, boxes, {third})")
    assert len(loaded.module(pictures(loaded, 2))) == 2
    outputs = loaded.module.train()(pictures(loaded, 2))
    assert outputs[2] == ()
    loss, parts = detection_loss(outputs, [(torch.tensor([1]), torch.full((1, 4), 0.5))] * 2, "sigmoid")
    assert torch.isfinite(loss)
    assert not parts["auxiliary"]


def test_auxiliary_outputs_keep_their_copies(tmp_path: Path) -> None:
    more = "[(logits, boxes, 3), (logits, boxes), {'logits': logits, 'pred_boxes': boxes}]"
    loaded = detector(tmp_path, third=f"(logits, boxes, {more})")
    assert len(loaded.module(pictures(loaded, 2))) == 2
    outputs = loaded.module.train()(pictures(loaded, 2))
    assert [len(one) for one in outputs[2]] == [3, 2, 2]
    assert outputs[2][0][2] == 3
    targets = [(torch.tensor([1]), torch.full((1, 4), 0.5))] * 2
    once = detection_loss((*outputs[:2], outputs[2][1:2]), targets, "sigmoid")[1]["auxiliary"]
    thrice = detection_loss((*outputs[:2], outputs[2][:1]), targets, "sigmoid")[1]["auxiliary"]
    assert not torch.isclose(once, thrice)  # three queries are matched with the object in place of one


def test_the_last_layers_of_class_and_box_heads_stay_dense_whatever_their_names(tmp_path: Path) -> None:
    dense = detector(tmp_path).keep_dense
    assert dense == {"model.cls": CLASS_HEAD_REASON, "model.reg.2": BOX_HEAD_REASON}


IN_PLACE = "boxes = self.reg(x)\n        boxes[..., :2] += 0.5\n        boxes = boxes.sigmoid(); logits = self.cls(x)"
ADDED = "boxes = (self.reg(x) + x[..., :4]).sigmoid()\n        logits = self.cls(x)"
DECODED = "boxes = self.reg(x) @ torch.ones(4, 4)\n        logits = self.cls(x)"


@pytest.mark.parametrize("way", [IN_PLACE, ADDED, DECODED])
def test_the_last_box_layer_is_found_behind_other_steps(tmp_path: Path, way: str) -> None:
    source = SOURCE.replace("logits, boxes = self.cls(x), self.reg(x).sigmoid()", way)
    source = source.replace("THIRD", "(logits, boxes)").replace("FACTS", '"classes": 2')
    dense = load_model(write_model(tmp_path / "net.py", source)).keep_dense
    assert dense == {"model.cls": CLASS_HEAD_REASON, "model.reg.2": BOX_HEAD_REASON}


def test_a_class_head_of_four_columns_is_no_box_layer(tmp_path: Path) -> None:
    source = SOURCE.replace("nn.Linear(16, 2)", "nn.Linear(16, 4)").replace("THIRD", "(logits, boxes)")
    dense = load_model(write_model(tmp_path / "net.py", source.replace("FACTS", '"classes": 4'))).keep_dense
    assert dense == {"model.cls": CLASS_HEAD_REASON, "model.reg.2": BOX_HEAD_REASON}


def test_a_layer_of_four_columns_that_other_layers_follow_is_pruned(tmp_path: Path) -> None:
    narrow = SOURCE.replace("nn.Linear(16, 32), nn.ReLU()", "nn.Linear(16, 4), nn.Linear(4, 32), nn.ReLU()")
    source = narrow.replace("THIRD", "(logits, boxes)").replace("FACTS", '"classes": 2')
    loaded = load_model(write_model(tmp_path / "net.py", source))
    assert loaded.keep_dense == {"model.cls": CLASS_HEAD_REASON, "model.reg.3": BOX_HEAD_REASON}
    free = {x.name for x in gemm_layers(loaded.module, loaded.keep_dense) if prunable(x)}
    assert {"model.reg.0", "model.reg.1"} <= free


def test_a_model_without_derivatives_keeps_the_layers_that_are_named(tmp_path: Path) -> None:
    source = SOURCE.replace("self.reg(x)", "self.reg(x.detach().requires_grad_(False).sub_(self.embed.bias.sub_(0)))")
    source = source.replace("THIRD", "(logits, boxes)").replace("FACTS", '"classes": 2')
    assert load_model(write_model(tmp_path / "net.py", source)).keep_dense == {"model.cls": CLASS_HEAD_REASON}
