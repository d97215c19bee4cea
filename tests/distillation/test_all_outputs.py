"""A teacher in eval mode is asked for its auxiliary outputs: as many as the student gives in training."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpusq.distillation import Weights, objective_of
from gpusq.distillation.detector_objective import DetectionObjective
from gpusq.models.detector import Detector
from tests.models.detector_samples import FAMILIES, loaded, pictures


class Owner(nn.Module):
    """Images [B, 3, 8, 8] as four queries; the outermost module drops its auxiliary pair in eval mode."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(48, 16), nn.Linear(16, 16)
        self.head, self.box = nn.Linear(16, 3), nn.Linear(16, 4)
        self.dropout = dropout

    def forward(self, x: Tensor) -> tuple[Any, ...]:
        x = self.first(x.flatten(1).unflatten(1, (4, 48)))
        x = F.dropout(x, self.dropout, self.training)
        pairs = [(self.head(x), self.box(x).sigmoid())]
        x = self.second(x)
        pairs.append((self.head(x), self.box(x).sigmoid()))
        return (*pairs[1], (pairs[0],)) if self.training else pairs[1]


def compared(module: nn.Module, images: Tensor, activation: str) -> tuple[int, int, list[float]]:
    """Auxiliary outputs of the student in training, those of the teacher that is asked, and their soft losses."""
    student, teacher = copy.deepcopy(module).train(), module
    objective = objective_of("detection", student, teacher, (), Weights(), {}, False, activation)  # type: ignore[arg-type]
    assert isinstance(objective, DetectionObjective)
    with torch.no_grad():
        mine, theirs = student(images), objective._ask(images)
        soft = objective._auxiliary_soft(mine, theirs)
    assert not any(part.training for part in teacher.modules())
    return len(mine[2]), len(theirs[2]) if len(theirs) > 2 else 0, [float(loss) for loss in soft]


@pytest.mark.parametrize("name", FAMILIES)
def test_teacher_of_every_family_gives_as_many_as_its_student(name: str) -> None:
    model = loaded(name)
    mine, theirs, soft = compared(copy.deepcopy(model.module), pictures(model), model.description.activation or "")
    assert mine == theirs == len(soft)
    assert mine > 0 or name == "yolos-mini"


def test_decoder_of_d_fine_keeps_its_final_answer() -> None:
    model = loaded("d-fine-mini")
    teacher, images = copy.deepcopy(model.module), pictures(model)
    objective = objective_of("detection", copy.deepcopy(teacher), teacher, (), Weights(), {}, False, "sigmoid")
    assert isinstance(objective, DetectionObjective)
    with torch.no_grad():
        plain, asked = teacher(images), objective._ask(images)
    torch.testing.assert_close(asked[0], plain[0])
    torch.testing.assert_close(asked[1], plain[1])


def test_outermost_module_of_a_user_is_asked_too() -> None:
    torch.manual_seed(0)
    mine, theirs, soft = compared(Detector(Owner()).eval(), torch.randn(3, 3, 8, 8), "sigmoid")
    assert (mine, theirs, soft) == (1, 1, [pytest.approx(0, abs=1e-6)])


def test_a_teacher_that_becomes_random_when_asked_is_not_asked() -> None:
    torch.manual_seed(0)
    mine, theirs, soft = compared(Detector(Owner(dropout=0.5)).eval(), torch.randn(3, 3, 8, 8), "sigmoid")
    assert (mine, theirs, soft) == (1, 0, [])
