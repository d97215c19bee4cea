"""Distillation of a detector whose blocks refine the boxes of the block before, without a gradient between them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gpusq.distillation import Weights, objective_of
from gpusq.distillation.detector_objective import DetectionObjective
from gpusq.models import canonicalise
from gpusq.models.vit_detr import VitDetr, VitDetrConfig

TINY = VitDetrConfig(
    image=64, patch=8, merge=2, stem=32, width=32, heads=2, encoder=1, decoder=1, anchor=0.25, copies=2
)


def pair() -> tuple[nn.Module, nn.Module]:
    """A teacher whose heads are not at their zero start, and a student a little beside it."""
    torch.manual_seed(0)
    teacher = canonicalise(VitDetr(TINY))
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            if "box_heads" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1 + 0.05 * torch.randn_like(parameter))
    return student, teacher


def first_boxes_error(student: nn.Module, teacher: nn.Module, images: torch.Tensor) -> float:
    """Mean absolute difference of the boxes before the decoder."""
    with torch.no_grad():
        mine, theirs = (model.train()(images)[2][0][1] for model in (student, teacher))
    return float((mine - theirs).abs().mean())


def learn() -> tuple[list[float], float, float]:
    """Soft losses of 40 steps on one batch, and the error of the first boxes before and after."""
    student, teacher = pair()
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    before = first_boxes_error(student, teacher, images)
    optimizer = torch.optim.AdamW(student.train().parameters(), lr=3e-4, weight_decay=0.0)
    weights = Weights(alpha=0.0, beta=10.0, gamma=0.0)
    losses = []
    with objective_of("detection", student, teacher, (), weights, {}, False, "sigmoid") as objective:
        for _ in range(40):
            loss, parts = objective.loss(student, images, None)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(parts["soft"]))
    return losses, before, first_boxes_error(student, teacher, images)


def test_the_soft_loss_falls_and_the_first_boxes_come_nearer() -> None:
    losses, before, after = learn()
    assert losses[-1] < 0.6 * losses[0]
    assert after < 0.8 * before


def test_without_the_first_boxes_they_do_not_come_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DetectionObjective, "_auxiliary_soft", lambda *_: [])
    _, before, after = learn()
    assert after > 0.8 * before


def test_the_teacher_stays_in_eval_mode() -> None:
    student, teacher = pair()
    images = torch.randn(1, 3, 64, 64)
    with objective_of("detection", student, teacher, (), Weights(), {}, False, "sigmoid") as objective:
        objective.loss(student.train(), images, None)
    assert not any(part.training for part in teacher.modules())
