"""What a model gives is looked at before anything is done with it: its task, its numbers, a detector's boxes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gpusq.errors import ClassMismatchError, NonFiniteError, UnsupportedModelError
from gpusq.models import LoadedModel, load_model
from gpusq.models.detector_presets import DETECTOR_PRESETS, new_detector
from gpusq.models.output_form import BOX_FORM, check_box_form, task_told_by
from gpusq.models.probe import evaluating, example_input, outputs_of
from gpusq.models.source import parse_spec
from tests.models.model_samples import write_model

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 8, stride=8)
        self.cls = nn.Linear(16, COLUMNS)
        self.reg = nn.Linear(16, 4)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        logits, boxes = self.cls(x), self.reg(x).sigmoid()
        return GIVEN

def build():
    return Net(), {"input_shape": (3, 32, 32), FACTS}
"""
DETECTORS = [name for name, preset in DETECTOR_PRESETS.items() if preset.task == "detection"]


def detector(
    tmp_path: Path, given: str, facts: str = '"activation": "softmax"', columns: int = 3, **more: object
) -> LoadedModel:
    source = SOURCE.replace("GIVEN", given).replace("FACTS", facts).replace("COLUMNS", str(columns))
    return load_model(write_model(tmp_path / "net.py", source), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("given", ["(logits, boxes)", "{'pred_logits': logits, 'pred_boxes': boxes}"])
def test_centres_and_sizes_in_shares_pass(tmp_path: Path, given: str) -> None:
    assert detector(tmp_path, given).description.task == "detection"


@pytest.mark.parametrize(
    "name", [name if name.endswith("mini") else pytest.param(name, marks=pytest.mark.slow) for name in DETECTORS]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_fresh_heads_of_every_family_pass(name: str, seed: int) -> None:
    module = new_detector(parse_spec(f"new:{name}"), None, seed).module
    size = DETECTOR_PRESETS[name].size
    with evaluating(module), torch.no_grad():
        check_box_form(outputs_of(module(example_input(module, (3, size, size))), "detection")[1])


@pytest.mark.parametrize(
    ("boxes", "found"),
    [
        ("boxes * 96", "values from [0-9.]+ to [5-9][0-9]"),
        ("boxes - 1", "widths and heights from -0.[0-9]+ to -0"),
        ("torch.cat([boxes[..., 2:] + 1, boxes[..., :2] - 1], -1)", "widths and heights from -"),
    ],
    ids=["pixels", "negative", "corners before their order"],
)
@pytest.mark.parametrize("facts", ['"activation": "softmax"', '"activation": "softmax", "task": "detection"'])
def test_other_boxes_are_refused_with_their_range(tmp_path: Path, boxes: str, found: str, facts: str) -> None:
    with pytest.raises(UnsupportedModelError, match=found) as caught:
        detector(tmp_path, f"(logits, {boxes})", facts)
    assert caught.value.what == f"a detector gives {BOX_FORM}"
    assert "divide pixels by the image's width and height" in caught.value.do


def test_a_few_stray_queries_pass_and_half_of_them_do_not() -> None:
    boxes = torch.full((1, 12, 4), 0.5)
    boxes[0, 0] = torch.tensor([0.5, 0.5, 7.0, 7.0])
    boxes[0, 1, 3] = -0.1
    check_box_form(boxes)
    boxes[0, :6, 3] = -0.1
    with pytest.raises(UnsupportedModelError, match=r"from -0\.1 to 7"):
        check_box_form(boxes)


@pytest.mark.parametrize(
    ("given", "got", "do"),
    [
        ("(boxes, logits)", r"a tuple of \[1, 16, 4\], \[1, 16, 3\]", "swap them"),
        (
            "(logits, torch.cat([boxes, boxes[..., :1]], -1))",
            r"a tuple of \[1, 16, 3\], \[1, 16, 5\]",
            "wrap the model",
        ),
        ("(logits, boxes[:, :9])", r"a tuple of \[1, 16, 3\], \[1, 9, 4\]", "wrap the model"),
        ("{'logits': logits, 'boxes': boxes[..., :3]}", r"'logits' \[1, 16, 3\], 'boxes' \[1, 16, 3\]", "wrap the"),
        ("[{'boxes': boxes[0], 'scores': logits[0]}]", "a list of dict", "wrap the model"),
        ("None", "NoneType", "wrap the model"),
    ],
)
def test_what_is_no_pair_is_refused_with_the_shapes(tmp_path: Path, given: str, got: str, do: str) -> None:
    with pytest.raises(UnsupportedModelError, match=got) as caught:
        detector(tmp_path, given)
    assert "a classifier gives logits [B, classes], a detector (logits [B, Q, K], boxes [B, Q, 4])" in str(caught.value)
    assert do in caught.value.do


def test_logits_of_queries_alone_lack_their_boxes(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"shape \[1, 16, 3\].*a detector returns \(logits, boxes"):
        detector(tmp_path, "logits")


def test_a_named_task_is_told_the_shapes_too(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"got a list of dict; wrap .* returns \(logits, boxes\)"):
        detector(tmp_path, "[{'boxes': boxes}]", '"task": "detection"')


def test_the_task_is_told_by_the_output() -> None:
    logits, boxes = torch.zeros(1, 5, 3), torch.zeros(1, 5, 4)
    assert task_told_by((logits, boxes)) == "detection"
    assert task_told_by(logits[0]) == task_told_by({"logits": logits[0]}) == "classification"


@pytest.mark.parametrize(
    ("given", "facts", "name"),
    [
        ("(logits * float('nan'), boxes)", '"activation": "softmax"', "logits"),
        ("(logits, boxes / 0)", '"activation": "softmax"', "boxes"),
        ("logits.mean(1) / 0", '"classes": 3', "logits"),
        ("(boxes, logits.log())", '"task": "tensors", "outputs": ["a", "b"]', "b"),
        ("(boxes, logits.log())", '"task": "tensors"', "output 1"),
    ],
)
def test_outputs_that_are_not_finite_are_refused_before_anything_else(
    tmp_path: Path, given: str, facts: str, name: str
) -> None:
    with pytest.raises(NonFiniteError, match=f"must be finite: {name} for .* values NaN or infinite"):
        detector(tmp_path, given, facts)


def test_another_number_of_classes_is_refused_with_both_lists(tmp_path: Path) -> None:
    with pytest.raises(ClassMismatchError) as caught:
        detector(tmp_path, "(logits, boxes)", columns=7, classes=2, asked=("disc", "square"))
    assert "7 columns of logits: 6 classes, and the last column is 'no object' (softmax)" in caught.value.got
    assert "2 classes in the images ('disc', 'square')" in caught.value.got
    with pytest.raises(ClassMismatchError, match=r"2 classes \('disc', 'square'\) \(sigmoid: no column is 'no object'"):
        detector(tmp_path, "(logits, boxes)", '"classes": ["disc", "square"]', columns=2, classes=3)


def test_facts_that_name_another_number_than_their_activation_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ClassMismatchError, match=r"3 names \('a', 'b', 'c'\) and 3 columns of logits: 2 classes, and"):
        detector(tmp_path, "(logits, boxes)", '"activation": "softmax", "classes": ["a", "b", "c"]')
