"""A model is loaded as what it is: nothing that is rewritten may change its outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gpusq.errors import UnsupportedModelError
from gpusq.models import PatchLinear, UnpackedAttention, load_model
from gpusq.models.layers import OWN_FORWARD_REASON, PACKED_REASON
from gpusq.models.unchanged import TOLERANCE, check_unchanged
from gpusq.models.user_file import call_function
from gpusq.stages.intake import dense_state
from gpusq.stages.quantizing import skipped_layers
from gpusq.workload import NO_LAYER, coverage
from tests.models.model_samples import write_model

SOURCE = """
import torch
from torch import nn

class NormedQK(nn.MultiheadAttention):
    def forward(self, query, key, value, **options):
        unit = nn.functional.normalize
        return super().forward(4 * unit(query, dim=-1), 4 * unit(key, dim=-1), value, **options)

class CentredConv(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True), self.bias)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.mix = CentredConv(3, 32, 8, stride=8), NormedQK(32, 4, batch_first=True)
        self.feed, self.head, self.box = nn.Linear(32, 32), nn.Linear(32, 2), nn.Linear(32, 4)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.mix(x, x, x)[0]
        x = x + self.feed(x)
        STEP
        return OUTPUT

def build():
    torch.manual_seed(0)
    return Net(), {"input_shape": (3, 32, 32), "classes": 2}
"""
OUTPUTS = {"detection": "self.head(x), self.box(x).sigmoid()", "classification": "self.head(x).mean(1)"}


def source_of(task: str = "detection", step: str = "pass") -> str:
    return SOURCE.replace("OUTPUT", OUTPUTS[task]).replace("STEP", step)


@pytest.mark.parametrize("task", OUTPUTS)
def test_modules_of_the_user_s_own_classes_keep_their_function_and_say_why_they_stay(tmp_path: Path, task: str) -> None:
    source = source_of(task)
    loaded = load_model(write_model(tmp_path / "net.py", source))
    own: Any = call_function(source.encode(), "build", {}, pretrained=True)[0].eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = own(x), loaded.module(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    state = dense_state(loaded)
    name = next(n for n, m in loaded.module.named_modules() if isinstance(m, nn.MultiheadAttention))
    assert loaded.keep_dense[f"{name}.out_proj"] == PACKED_REASON
    assert loaded.keep_dense[next(n for n in loaded.keep_dense if n.endswith("embed"))] == OWN_FORWARD_REASON
    assert "floating point" in skipped_layers(state, ())[f"{name}.out_proj"]
    gaps = {gap.name: gap for gap in coverage(state.workload, state.layers).dense}
    assert gaps[name].reason == NO_LAYER
    assert gaps[name].share > 0.3


def test_outputs_that_another_form_changes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = PatchLinear.forward
    monkeypatch.setattr(PatchLinear, "forward", lambda self, x: own(self, x.flip(-1)))
    with pytest.raises(UnsupportedModelError, match=r"the same outputs .* got differences of .* of the largest value"):
        load_model("new:vit-test")
    monkeypatch.undo()
    inner = UnpackedAttention.forward
    monkeypatch.setattr(
        UnpackedAttention, "forward", lambda self, q, k, v, **options: (inner(self, q, k, v, **options)[0] * 1.5, None)
    )
    with pytest.raises(UnsupportedModelError, match="the same outputs"):
        load_model("new:vit-detr-mini?size=60")


def test_outputs_that_are_drawn_anew_each_time_are_refused(tmp_path: Path) -> None:
    step = "x = nn.functional.dropout(x, 0.5, training=True)"
    with pytest.raises(UnsupportedModelError, match="compute the same each time in eval mode"):
        load_model(write_model(tmp_path / "net.py", source_of(step=step)))


@pytest.mark.parametrize("task", OUTPUTS)
def test_a_detector_is_refused_where_every_image_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    from gpusq.models import load

    asked: list[int] = []

    def differs(before: object, after: object, task: str) -> None:
        asked.append(len(asked))
        if len(asked) in wrong:
            raise UnsupportedModelError("outputs differ")

    monkeypatch.setattr(load, "check_unchanged", differs)
    wrong = (1, 2)
    with pytest.raises(UnsupportedModelError, match="outputs differ"):
        load_model(write_model(tmp_path / "net.py", source_of(task)))
    assert len(asked) == (2 if task == "detection" else 1)
    asked, wrong = [], (1,)
    if task == "detection":  # the one that rounding decided
        load_model(write_model(tmp_path / "net.py", source_of(task)))


def test_models_in_half_precision_are_loaded(tmp_path: Path) -> None:
    half = source_of().replace("return Net()", "return Net().half()")
    assert next(load_model(write_model(tmp_path / "net.py", half)).module.parameters()).dtype == torch.float32


def pair(queries: int = 20) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, queries, 3, generator=generator), torch.rand(1, queries, 4, generator=generator)


def test_queries_may_change_places_and_not_values() -> None:
    logits, boxes = pair()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    check_unchanged((logits, boxes), (logits[:, order], boxes[:, order]), "detection")
    with pytest.raises(UnsupportedModelError):
        check_unchanged((logits, boxes), (logits[:, order], boxes), "detection")
    with pytest.raises(UnsupportedModelError):
        check_unchanged((logits, boxes), (logits[:, order], boxes[:, order]), "tensors")


@pytest.mark.parametrize("queries", [range(1), range(20)])
def test_a_moved_box_is_seen(queries: range) -> None:
    logits, boxes = pair()
    moved = boxes.clone()
    moved[:, list(queries)] += 3 * TOLERANCE
    with pytest.raises(UnsupportedModelError):
        check_unchanged((logits, boxes), (logits, moved), "detection")
    moved = boxes + 0.2 * TOLERANCE
    check_unchanged((logits, boxes), (logits, moved), "detection")


def test_shapes_nan_and_scale() -> None:
    x = torch.tensor([[1000.0, 1.0, float("nan"), float("inf")]])
    check_unchanged((x,), (x + 0.5,), "classification")
    check_unchanged((x,), (torch.nan_to_num(x, 0.0, float("inf")),), "classification")
    for other in (x[:, :3], x + 2, torch.full_like(x, float("nan")), -x):
        with pytest.raises(UnsupportedModelError):
            check_unchanged((x,), (other,), "classification")
    check_unchanged((torch.zeros(1, 2),), (torch.zeros(1, 2),), "tensors")
