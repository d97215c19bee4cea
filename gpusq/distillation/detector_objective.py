"""The loss of one batch for models that are no classifiers: detectors, and models that give plain tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gpusq.distillation.capture import BlockOutputs
from gpusq.distillation.hungarian import Activation, Target, detection_loss
from gpusq.distillation.losses import (
    EPSILON,
    Weights,
    block_losses,
    distillation_loss,
    feature_loss,
    hard_loss,
)
from gpusq.distillation.matched import (
    agreement,
    batch_first,
    in_students_order,
    match_queries,
    matched_soft_loss,
    teacher_targets,
)
from gpusq.distillation.objective import Objective

Task = Literal["classification", "detection", "tensors"]
Parts = dict[str, Tensor]
CLOSE = 1e-2
"""Difference of logits and boxes that rounding may make between two runs of one detector; dropout makes larger ones."""


class PairObjective(ABC):
    """alpha * hard + beta * soft + gamma * feature of a student under a frozen teacher; use as a context manager.

    student: the plain module whose blocks are watched (calls may go through a wrapper of it). blocks: names whose
    outputs are compared. factors: block -> weight, default 1. supervised: targets, else the teacher's answers.
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

    def __enter__(self) -> PairObjective:
        self._mine.__enter__()
        self._theirs.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._mine.__exit__(None, None, None)
        self._theirs.__exit__(None, None, None)

    def loss(self, student: nn.Module, images: Tensor, targets: Sequence[Target] | None) -> tuple[Tensor, Parts]:
        """(loss, its parts by name) of images [B, C, H, W]; targets: one (classes, boxes) for each image, or None."""
        mine, theirs, features, other = self._run(student, images)
        hard, soft, gate, features, other = self._compare(mine, theirs, features, other, targets)
        feature = feature_loss(block_losses(features, other), gate, self._factors)
        total = distillation_loss(hard, soft, feature, self._weights)
        parts = {"hard": hard, "soft": soft, "feature": feature, "agreement": gate.mean()}
        return total, {name: part.detach() for name, part in parts.items()}

    def block_means(self, student: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """Block -> mean feature loss over a batch, gate included; no gradients."""
        with torch.no_grad():
            mine, theirs, features, other = self._run(student, images)
            _, _, gate, features, other = self._compare(mine, theirs, features, other, None)
            return {n: (x * gate).mean() for n, x in block_losses(features, other).items()}

    def _run(self, student: nn.Module, images: Tensor) -> tuple[Any, Any, Parts, Parts]:
        """Outputs of student and teacher, and their block outputs with the batch in front."""
        with torch.no_grad():
            theirs = self._ask(images)
        other = batch_first(self._theirs.take(), len(images))
        mine = student(images)
        return mine, theirs, batch_first(self._mine.take(), len(images)), other

    def _ask(self, images: Tensor) -> Any:
        """The teacher's outputs."""
        return self._teacher(images)

    @abstractmethod
    def _compare(
        self, mine: Any, theirs: Any, features: Parts, other: Parts, targets: Sequence[Target] | None
    ) -> tuple[Tensor, Tensor, Tensor, Parts, Parts]:
        """(hard, soft, gate [B], student's block outputs, teacher's block outputs)."""


class DetectionObjective(PairObjective):
    """For detectors: Hungarian loss to the true boxes, soft loss on queries matched between student and teacher.

    The feature loss of an image is scaled by the share of its matched pairs that agree in class. Auxiliary outputs are
    compared with the teacher's too: detectors stop the gradient between a decoder block's boxes and the next one's, so
    a loss of the last boxes alone has no gradient through the first, and they drift away.
    """

    def __init__(self, *arguments: Any, activation: Activation = "sigmoid", **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._activation = activation
        self._asks_for_all: bool | None = None

    def _compare(
        self, mine: Any, theirs: Any, features: Parts, other: Parts, targets: Sequence[Target] | None
    ) -> tuple[Tensor, Tensor, Tensor, Parts, Parts]:
        truth = targets if targets is not None and self._supervised else self._answers(theirs)
        hard, _ = detection_loss(mine, truth, self._activation)
        pairs = match_queries((mine[0], mine[1]), (theirs[0], theirs[1]), self._activation)
        final = matched_soft_loss(pairs, self._activation, self._weights.temperature)
        soft = torch.stack([final, *self._auxiliary_soft(mine, theirs)]).mean()
        gate = agreement(pairs, self._activation)
        other = in_students_order(other, pairs, theirs[0].shape[1], features)
        return hard, soft, gate, *_same_shapes(features, other)

    def _ask(self, images: Tensor) -> Any:
        """The teacher's outputs in eval mode, with its auxiliary ones where asking for them changes nothing else."""
        if self._asks_for_all is None:
            self._asks_for_all = _same_final(self._teacher, images)
        if not self._asks_for_all:
            return self._teacher(images)
        with _all_outputs(self._teacher):
            return self._teacher(images)

    def _auxiliary_soft(self, mine: Any, theirs: Any) -> list[Tensor]:
        """The soft loss of each auxiliary output; one column is object or not.

        None where the two give different numbers of them, as a user's model may whose inner parts leave them out in
        eval mode. Its first boxes are then held by the hard loss alone.
        """
        own, other = (outputs[2] if len(outputs) > 2 else () for outputs in (mine, theirs))
        if len(own) != len(other):
            return []
        losses = []
        for student, teacher in zip(own, other, strict=True):
            activation = "sigmoid" if student[0].shape[-1] == 1 else self._activation
            pairs = match_queries(tuple(student[:2]), tuple(teacher[:2]), activation)
            losses.append(matched_soft_loss(pairs, activation, self._weights.temperature))
        return losses

    def _answers(self, theirs: Any) -> list[Target]:
        return teacher_targets(theirs[0], theirs[1], self._activation)


class TensorsObjective(PairObjective):
    """For other heads: no targets and no hard loss; soft is the squared error of each output over its mean square."""

    def _compare(
        self, mine: Any, theirs: Any, features: Parts, other: Parts, targets: Sequence[Target] | None
    ) -> tuple[Tensor, Tensor, Tensor, Parts, Parts]:
        soft = tensors_loss(mine, theirs)
        gate = torch.ones(len(theirs[0]), device=theirs[0].device)
        return torch.zeros_like(soft), soft, gate, *_same_shapes(features, other)


def tensors_loss(outputs: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Squared error of each output over the teacher's mean square for each image; mean over images and outputs."""
    rows = []
    for mine, theirs in zip(outputs, teacher, strict=True):
        target = theirs.float().flatten(1)
        error = (mine.float().flatten(1) - target).square().mean(dim=1)
        rows.append(error / (target.square().mean(dim=1) + EPSILON))
    return torch.stack(rows).mean()


def objective_of(
    task: Task,
    student: nn.Module,
    teacher: nn.Module,
    blocks: Sequence[str],
    weights: Weights,
    factors: Mapping[str, float] | None = None,
    supervised: bool = True,
    activation: Activation = "softmax",
) -> Objective | PairObjective:
    """The objective of a task; `ModelDescription` names the task and the activation (for detection)."""
    arguments = (student, teacher, blocks, weights, factors, supervised)
    if task == "classification":
        return Objective(*arguments)
    return (
        DetectionObjective(*arguments, activation=activation) if task == "detection" else TensorsObjective(*arguments)
    )


def supervised_loss(task: Task, outputs: Any, targets: Any, activation: Activation = "softmax") -> tuple[Tensor, Parts]:
    """(loss, its parts) of a model's outputs without a teacher.

    classification: logits [B, K] and labels [B]; detection: the outputs' tuple and one (classes, boxes) an image.
    """
    if task == "detection":
        return detection_loss(outputs, targets, activation)
    loss = hard_loss(outputs, targets)
    return loss, {"hard": loss.detach()}


def _same_shapes(features: Parts, other: Parts) -> tuple[Parts, Parts]:
    """Only blocks whose outputs can be compared: a model may use more queries in training than in use."""
    names = [n for n in other if features[n].shape == other[n].shape]
    return {n: features[n] for n in names}, {n: other[n] for n in names}


def _same_final(teacher: nn.Module, images: Tensor) -> bool:
    """Whether a teacher asked for all its outputs gives the logits and boxes of eval mode; one with dropout may not."""
    plain = teacher(images)
    with _all_outputs(teacher):
        full = teacher(images)
    return all(
        a.shape == b.shape and torch.allclose(a, b, atol=CLOSE) for a, b in zip(plain[:2], full[:2], strict=True)
    )


@contextmanager
def _all_outputs(module: nn.Module) -> Iterator[None]:
    """Inside the block a detector in eval mode gives its auxiliary outputs too, while its parts stay in eval mode.

    `speakers()` of the module names those whose own training flag decides it (`gpusq.models.detector.Detector`);
    without it, it is the module's own.
    """
    find = getattr(module, "speakers", None)
    speakers: list[nn.Module] = [module] if find is None else find()
    flags = [speaker.training for speaker in speakers]
    try:
        for speaker in speakers:
            speaker.training = True
        yield
    finally:
        for speaker, flag in zip(speakers, flags, strict=True):
            speaker.training = flag
