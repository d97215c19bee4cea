"""The loss of one batch: student and teacher on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gpusq.distillation.capture import BlockOutputs
from gpusq.distillation.losses import Weights, block_losses, distillation_loss, feature_loss, hard_loss, soft_loss


class Objective:
    """alpha * hard + beta * soft + gamma * feature, with the teacher frozen; use as a context manager.

    student: the plain module whose blocks are watched (calls may go through a wrapper of it). blocks: names whose
    outputs are compared. factors: block -> weight, default 1. supervised: labels, else the teacher's predictions.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        blocks: Sequence[str],
        weights: Weights,
        factors: Mapping[str, float] | None = None,
        supervised: bool = True,
    ) -> None:
        self._teacher = teacher.eval()
        self._weights, self._supervised = weights, supervised
        self._factors = dict(factors or {})
        watched = blocks if weights.gamma else ()
        self._mine, self._theirs = BlockOutputs(student, watched), BlockOutputs(teacher, watched)

    def __enter__(self) -> Objective:
        self._mine.__enter__()
        self._theirs.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._mine.__exit__(None, None, None)
        self._theirs.__exit__(None, None, None)

    def loss(self, student: nn.Module, images: Tensor, labels: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, its parts by name) of images [B, C, H, W]; labels [B] or None where unsupervised."""
        with torch.no_grad():
            target = self._teacher(images)
        theirs = self._theirs.take()
        logits = student(images)
        features = block_losses(self._mine.take(), theirs)
        truth = target.argmax(dim=1) if labels is None or not self._supervised else labels
        gate = logits.detach().argmax(dim=1) == target.argmax(dim=1)
        hard = hard_loss(logits, truth)
        soft = soft_loss(logits, target, self._weights.temperature)
        feature = feature_loss(features, gate, self._factors)
        total = distillation_loss(hard, soft, feature, self._weights)
        parts = {"hard": hard, "soft": soft, "feature": feature, "agreement": gate.float().mean()}
        return total, {name: part.detach() for name, part in parts.items()}

    def block_means(self, student: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """Block -> mean feature loss over a batch, gate included; no gradients."""
        with torch.no_grad():
            target = self._teacher(images)
            theirs = self._theirs.take()
            logits = student(images)
            gate = logits.argmax(dim=1) == target.argmax(dim=1)
            return {n: (x * gate).mean() for n, x in block_losses(self._mine.take(), theirs).items()}
