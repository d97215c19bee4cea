"""The whole objective of detectors and of models with other heads."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gpusq.distillation import (
    DetectionObjective,
    Objective,
    TensorsObjective,
    Weights,
    objective_of,
    supervised_loss,
    tensors_loss,
)
from gpusq.distillation.hungarian import Activation
from tests.distillation.box_samples import CLASSES, targets

BOTH = pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
BLOCKS = ("blocks.0", "blocks.1")


class Net(nn.Module):
    """Images [B, 1, 5, 8] as five queries of width 8; in training mode one auxiliary pair."""

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(2))
        self.head = nn.Linear(8, CLASSES + (activation == "softmax"))
        self.box = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Any, ...]:
        x = x.flatten(0, 1)
        pairs = []
        for block in self.blocks:
            x = block(x)
            pairs.append((self.head(x), self.box(x).sigmoid()))
        return (*pairs[-1], tuple(pairs[:-1])) if self.training else pairs[-1]


def twins(activation: Activation, noise: float) -> tuple[Net, Net]:
    torch.manual_seed(4)
    teacher = Net(activation)
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return student, teacher.requires_grad_(False)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 1, 5, 8, generator=torch.Generator().manual_seed(3))


TARGETS = targets([2, 0, 3, 1], 1)


@BOTH
def test_an_equal_student_has_no_soft_and_feature_loss(activation: Activation, images: Tensor) -> None:
    student, teacher = twins(activation, 0.0)
    with DetectionObjective(student, teacher, BLOCKS, Weights(), activation=activation) as objective:
        total, parts = objective.loss(student, images, TARGETS)
    assert float(parts["feature"]) == 0.0
    assert abs(float(parts["soft"])) < 1e-6
    assert float(parts["agreement"]) == 1.0
    expected, _ = supervised_loss("detection", student(images), TARGETS, activation)
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


@BOTH
def test_total_is_the_weighted_sum_and_reaches_every_parameter(activation: Activation, images: Tensor) -> None:
    student, teacher = twins(activation, 0.2)
    weights = Weights(0.5, 2.0, 3.0, 4.0)
    with DetectionObjective(student, teacher, BLOCKS, weights, {"blocks.0": 2.0}, activation=activation) as objective:
        total, parts = objective.loss(student, images, TARGETS)
    expected = 0.5 * parts["hard"] + 2.0 * parts["soft"] + 3.0 * parts["feature"]
    torch.testing.assert_close(total.detach(), expected)
    total.backward()
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert not any(part.requires_grad for part in parts.values())


@BOTH
def test_gradients_of_parts_of_a_batch_average_to_those_of_the_whole(activation: Activation, images: Tensor) -> None:
    student, teacher = twins(activation, 0.2)

    def gradient(first: int, last: int) -> Tensor:
        student.zero_grad()
        with DetectionObjective(student, teacher, BLOCKS, Weights(), activation=activation) as objective:
            objective.loss(student, images[first:last], TARGETS[first:last])[0].backward()
        return torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])

    halves = torch.stack([gradient(0, 2), gradient(2, 4)]).mean(0)
    torch.testing.assert_close(halves, gradient(0, 4), rtol=1e-4, atol=1e-4)


@BOTH
@pytest.mark.parametrize("given", [True, False])
def test_unsupervised_targets_are_the_teachers_detections(activation: Activation, given: bool, images: Tensor) -> None:
    student, teacher = twins(activation, 0.2)
    with DetectionObjective(student, teacher, BLOCKS, Weights(), supervised=False, activation=activation) as objective:
        _, parts = objective.loss(student, images, TARGETS if given else None)
        _, again = objective.loss(student, images, None)
    assert float(parts["hard"]) == float(again["hard"])
    with DetectionObjective(student, teacher, BLOCKS, Weights(), activation=activation) as objective:
        assert float(objective.loss(student, images, TARGETS)[1]["hard"]) != float(parts["hard"])


@BOTH
def test_block_means_are_the_gated_feature_losses(activation: Activation, images: Tensor) -> None:
    student, teacher = twins(activation, 0.2)
    with DetectionObjective(student, teacher, BLOCKS, Weights(), activation=activation) as objective:
        means = objective.block_means(student, images)
        _, parts = objective.loss(student, images, TARGETS)
    assert set(means) == set(BLOCKS)
    torch.testing.assert_close(sum(means.values()), parts["feature"])


def test_distillation_brings_a_student_to_its_teacher(images: Tensor) -> None:
    student, teacher = twins("sigmoid", 0.5)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02)
    seen = []
    with DetectionObjective(student, teacher, BLOCKS, Weights(0.0, 10.0, 5.0), activation="sigmoid") as objective:
        for _ in range(150):
            optimizer.zero_grad()
            total, _ = objective.loss(student, images, None)
            total.backward()
            optimizer.step()
            seen.append(float(total.detach()))
    assert seen[-1] < 0.25 * seen[0]


def test_other_heads_are_distilled_by_their_own_scale(images: Tensor) -> None:
    student, teacher = twins("sigmoid", 0.0)
    student.eval()
    with TensorsObjective(student, teacher, BLOCKS, Weights()) as objective:
        total, parts = objective.loss(student, images, None)
        assert float(total.detach()) == float(parts["hard"]) == 0.0
    x = (torch.randn(2, 3), 1000 * torch.randn(2, 5))
    off = tuple(t * 1.1 for t in x)
    torch.testing.assert_close(tensors_loss(off, x), torch.tensor(0.01))  # one tenth off, whatever the size
    assert float(tensors_loss(x, x)) == 0.0


@pytest.mark.parametrize(
    ("task", "kind"),
    [("classification", Objective), ("detection", DetectionObjective), ("tensors", TensorsObjective)],
)
def test_each_task_has_its_objective(task: Any, kind: type) -> None:
    student, teacher = twins("sigmoid", 0.0)
    assert type(objective_of(task, student, teacher, (), Weights())) is kind


def test_supervised_loss_of_a_classifier_is_cross_entropy() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    loss, parts = supervised_loss("classification", logits, labels)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits, labels))
    assert set(parts) == {"hard"}
