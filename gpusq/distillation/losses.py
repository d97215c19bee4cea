"""The three losses of both phases. Every one is a mean over the full batch, so that parts of a batch add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-12  # keeps a block whose teacher output is all zero from dividing by zero


@dataclass(frozen=True)
class Weights:
    """Weights of the hard, soft and feature loss, and the temperature of the soft one.

    Defaults of GPUSQ-ViT (Yu et al. 2023, arXiv:2305.10727); the paper names no temperature.
    """

    alpha: float = 1.0
    beta: float = 10.0
    gamma: float = 5.0
    temperature: float = 1.0


def hard_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of logits [B, classes] against labels [B] (int64), mean over the batch."""
    return F.cross_entropy(logits.float(), labels)


def soft_loss(logits: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) of softened logits [B, classes], times T^2, mean over the batch; 0 where they are equal.

    Source: Hinton et al. 2015, arXiv:1503.02531.
    """
    student = F.log_softmax(logits.float() / temperature, dim=1)
    target = F.log_softmax(teacher.float() / temperature, dim=1)
    return F.kl_div(student, target, reduction="batchmean", log_target=True) * temperature**2


def block_losses(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Block -> [B]: squared error of each sample's block output over the teacher's mean square of that sample."""
    found = {}
    for name, target in teacher.items():
        t = target.float().flatten(1)
        error = (student[name].float().flatten(1) - t).square().mean(dim=1)
        found[name] = error / (t.square().mean(dim=1) + EPSILON)
    return found


def feature_loss(losses: Mapping[str, Tensor], gate: Tensor, factors: Mapping[str, float]) -> Tensor:
    """sum_i factor_i * mean over the full batch of (gate * loss_i). losses: block -> [B]; gate: [B] bool.

    A gated-out sample counts as zero in the numerator and as one in the denominator.
    """
    parts = [factors.get(name, 1.0) * (loss * gate).mean() for name, loss in losses.items()]
    return torch.stack(parts).sum() if parts else torch.zeros((), device=gate.device)


def distillation_loss(hard: Tensor, soft: Tensor, feature: Tensor, weights: Weights) -> Tensor:
    """alpha * hard + beta * soft + gamma * feature."""
    return weights.alpha * hard + weights.beta * soft + weights.gamma * feature
