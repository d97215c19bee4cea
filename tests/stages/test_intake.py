"""Intake refuses at once what only the export would refuse, after all training."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpusq.artifacts import Store
from gpusq.data import open_data
from gpusq.errors import UnsupportedModelError
from gpusq.models import load_model
from gpusq.models.detector_presets import DETECTOR_PRESETS
from gpusq.stages import Intake, Train
from gpusq.stages.control_flow import check_control_flow
from gpusq.stages.stage import Context, run_stage
from tests.data.picture_samples import photo, save
from tests.models.detector_samples import loaded
from tests.models.model_samples import write_model

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head, self.box = nn.Conv2d(3, 8, 8, stride=8), nn.Linear(8, 2), nn.Linear(8, 4)
        self.register_buffer("five", torch.tensor(5))
        self.register_buffer("kept", torch.arange(16) < 9)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        STEP
        return OUTPUT

def build():
    return Net(), {"input_shape": (3, 32, 32), FACTS}
"""
BRANCH = "x = x if x.mean() > 100 else -x"
OUTPUTS = {
    "classification": ("self.head(x).mean(dim=1)", '"classes": 2'),
    "detection": ("(self.head(x), self.box(x).sigmoid())", '"classes": 2'),
    "tensors": ("(self.head(x), self.box(x), x)", '"task": "tensors"'),
}


def model_file(folder: Path, step: str, task: str = "detection") -> str:
    output, facts = OUTPUTS[task]
    source = SOURCE.replace("STEP", step).replace("OUTPUT", output).replace("FACTS", facts)
    return write_model(folder / "net.py", source)


@pytest.mark.parametrize("task", OUTPUTS)
def test_a_branch_on_values_is_refused_with_its_line(tmp_path: Path, task: str) -> None:
    store = Store(tmp_path / "store")
    line = SOURCE.splitlines().index("        STEP") + 1
    with pytest.raises(UnsupportedModelError, match=rf"depends on computed values, in net\.py, line {line};") as found:
        run_stage(Intake(model=model_file(tmp_path, BRANCH, task)), None, Context(store=store))
    assert "torch.where" in str(found.value)
    assert "Sym" not in str(found.value)
    assert not list(store.artifacts())


@pytest.mark.parametrize(
    "step",
    [
        "for _ in range(int(x.max())): x = x + 1",
        "while x.abs().max() > 100: x = x / 2",
        "x = x + (1 if x.max().item() > 100 else 0)",
        "x = torch.roll(x, x.sum(-1)[0].argmax().item(), 1)",
        "x = x[:, :max(1, int((x.sum(-1) > 0).sum()) % 3 + 1)]",
        "x = torch.cat([x[:, :int((x > 0).sum()) % 3], x], dim=1)[:, :16]",
        "x = x + torch.zeros((x > 0).sum().item() + 1).sum()",
        "x = x * (x > 0).sum().item()",
        "x = x + int(x.mean())",
        "x = x[:, int(x[0].sum(-1).argmax())][:, None] + x",
        "x = x[:, (x.sum(-1) > 0)[0]]",
        "x = x[:, torch.nonzero(x[0].sum(-1))[:, 0]]",
    ],
)
def test_loops_and_numbers_from_values_are_refused(tmp_path: Path, step: str) -> None:
    model = load_model(model_file(tmp_path, step))
    line = SOURCE.splitlines().index("        STEP") + 1
    with pytest.raises(UnsupportedModelError, match=rf"the same steps for every image.*source\.py, line {line};"):
        check_control_flow(model.module, (3, 32, 32))


def test_train_names_the_user_s_own_file_too(tmp_path: Path) -> None:
    spec = model_file(tmp_path, BRANCH, "classification")
    line = SOURCE.splitlines().index("        STEP") + 1
    for i in range(4):
        save(tmp_path / "images" / str(i % 2) / f"{i}.png", photo(i))
    context = Context(Store(tmp_path / "store"), open_data(str(tmp_path / "images")))
    with pytest.raises(UnsupportedModelError, match=rf"in net\.py, line {line};"):
        run_stage(Train(model=spec), None, context)


@pytest.mark.parametrize(
    "step",
    [
        "x = torch.where(x.mean() > 100, x, -x)",
        "x = x if x.shape[0] > 3 else -x",
        "x = x.gather(1, x.mean(-1).topk(4).indices[..., None].expand(-1, -1, 8))",
        "x = x / (1 + x.abs().max().item())",
        "x = x[:, :int(self.five)]",
        "x = torch.topk(x, int(self.five), dim=1).values",
        "x = x[:, self.kept]",
        "x = x[:, : x[:, : int(self.five)].shape[1]]",
        "h, w = torch.tensor([2, 4]).tolist(); x = x[:, :h * w]",
        "x = x[:, :int(x.new_ones(7).sum())]",
        "x = x + (x > 0).nonzero().float().mean()",
        "y = x.clone(); y[x > 0] = 0; x = y",
        "x = x + float(x.detach().numpy().mean() * 0)",  # only the exporter's second way takes it
    ],
)
def test_steps_that_are_the_same_for_every_image_pass(tmp_path: Path, step: str) -> None:
    model = load_model(model_file(tmp_path, step))
    model.module.train()
    check_control_flow(model.module, (3, 32, 32))
    assert model.module.training


@pytest.mark.parametrize("name", ["vit-test", "swin-test", *(n for n in DETECTOR_PRESETS if n.endswith("mini"))])
def test_presets_take_the_same_steps_for_every_image(name: str) -> None:
    model = loaded(name)
    check_control_flow(model.module, model.description.input_shape)
