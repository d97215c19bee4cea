"""Set prediction: queries matched one to one with the true boxes, and the loss of a matched detector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gpusq.distillation.boxes import box_cxcywh_to_xyxy, generalized_iou
from gpusq.errors import ClassMismatchError, MissingExtraError, NonFiniteError

Activation = Literal["softmax", "sigmoid"]
Target = tuple[Tensor, Tensor]
"""Classes [n] int64 and boxes [n, 4] (cx, cy, w, h in 0..1) of one image; crowd boxes left out."""
Outputs = Sequence[Any]
"""(logits [B, Q, K'], boxes [B, Q, 4]) and, from a model in training mode, a sequence of more such pairs."""

NO_OBJECT = 0.1  # weight of queries without an object under softmax (Carion et al. 2020, arXiv:2005.12872)
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0  # Lin et al. 2017, arXiv:1708.02002
L1_WEIGHT, GIOU_WEIGHT = 5.0, 2.0  # of boxes, in the matching cost and the loss (arXiv:2005.12872)
CLASS_COST = {"softmax": 1.0, "sigmoid": 2.0}  # arXiv:2005.12872 and, for focal loss, arXiv:2010.04159


class Match(NamedTuple):
    """Pairs of one image: queries [n] and targets [n], int64; pair i is (queries[i], targets[i])."""

    queries: Tensor
    targets: Tensor


def match(logits: Tensor, boxes: Tensor, targets: Sequence[Target], activation: Activation) -> list[Match]:
    """The pairs of least cost for each image: min(Q, n) of them, each query and each target in at most one.

    logits: [B, Q, K'] (softmax: the last column is "no object"); boxes: [B, Q, 4] cxcywh. The cost is made of the
    class's probability, L1 distance and GIoU; no gradients. Raises NonFiniteError, ClassMismatchError.
    """
    with torch.no_grad():
        costs = [
            _target_cost(one, box, target, activation)
            for one, box, target in zip(logits.float(), boxes.float(), targets, strict=True)
        ]
    return [least_cost_pairs(cost) for cost in costs]


def least_cost_pairs(cost: Tensor) -> Match:
    """The assignment of least total cost, from a matrix [Q, n]. Raises NonFiniteError, MissingExtraError."""
    try:
        from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("scipy", "host", "matching boxes") from error
    if not bool(torch.isfinite(cost).all()):
        raise NonFiniteError(
            "queries are matched by finite logits and boxes",
            got="NaN or infinity",
            do="lower the learning rate, or train in fp32",
        )
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    return Match(torch.from_numpy(rows).to(cost.device), torch.from_numpy(columns).to(cost.device))


def detection_loss(
    outputs: Outputs, targets: Sequence[Target], activation: Activation
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, parts) of a detector: class + 5 L1 + 2 (1 - GIoU) on matched queries, auxiliary outputs added.

    class: cross entropy, queries without an object weighted 0.1 (softmax), or focal loss (sigmoid). Each image is
    divided by its own number of boxes (at least 1) and images are averaged, so that parts of a batch add up; DETR
    divides by the boxes of the whole batch. An auxiliary output of one column learns object or not, whatever the class;
    one that comes as (logits, boxes, copies) matches each target with as many queries (arXiv:2207.13080).
    parts: "class", "l1", "giou" of the final outputs, unweighted, and "auxiliary", the loss of the others.
    Raises NonFiniteError, ClassMismatchError.
    """
    logits, boxes, auxiliary = outputs[0], outputs[1], outputs[2] if len(outputs) > 2 else ()
    parts = _parts(logits, boxes, targets, activation)
    total = _weigh(parts)
    more = [
        _weigh(_parts(a, b, _for_auxiliary(targets, a, logits, copies[0] if copies else 1), activation))
        for a, b, *copies in auxiliary
    ]
    extra = torch.stack(more).sum() if more else torch.zeros_like(total)
    return total + extra, {**parts, "auxiliary": extra}


def _for_auxiliary(targets: Sequence[Target], logits: Tensor, final: Tensor, copies: int) -> Sequence[Target]:
    """Each target `copies` times, and of class 0 where the logits have one column and the final ones more."""
    one = logits.shape[-1] == 1 and final.shape[-1] != 1
    return [(classes.repeat(copies) * (0 if one else 1), boxes.repeat(copies, 1)) for classes, boxes in targets]


def class_probabilities(logits: Tensor, activation: Activation) -> Tensor:
    """Probability of each of the K classes, [..., K], without "no object"; logits [..., K']."""
    return logits.softmax(-1)[..., :-1] if activation == "softmax" else logits.sigmoid()


def _weigh(parts: dict[str, Tensor]) -> Tensor:
    return parts["class"] + L1_WEIGHT * parts["l1"] + GIOU_WEIGHT * parts["giou"]


def _parts(logits: Tensor, boxes: Tensor, targets: Sequence[Target], activation: Activation) -> dict[str, Tensor]:
    logits, boxes = logits.float(), boxes.float()
    pairs = match(logits, boxes, targets, activation)
    columns = zip(logits, boxes, targets, pairs, strict=True)
    rows = [_image_parts(one, box, target, pair, activation) for one, box, target, pair in columns]
    found = torch.stack([torch.stack(row) for row in rows]).mean(dim=0)
    return dict(zip(("class", "l1", "giou"), found, strict=True))


def _image_parts(
    logits: Tensor, boxes: Tensor, target: Target, pair: Match, activation: Activation
) -> tuple[Tensor, Tensor, Tensor]:
    """(class, l1, giou) of one image: logits [Q, K'], boxes [Q, 4]."""
    classes, truth = target[0][pair.targets], target[1][pair.targets].to(boxes)
    count = max(len(target[0]), 1)
    if activation == "softmax":
        wanted = torch.full((len(logits),), logits.shape[-1] - 1, dtype=torch.int64, device=logits.device)
        wanted[pair.queries] = classes
        weight = torch.ones(logits.shape[-1], device=logits.device)
        weight[-1] = NO_OBJECT
        loss = F.cross_entropy(logits, wanted, weight)
    else:
        hot = torch.zeros_like(logits)
        hot[pair.queries, classes] = 1.0
        loss = focal_loss(logits, hot) / count
    mine = boxes[pair.queries]
    l1 = (mine - truth).abs().sum() / count
    giou = (1 - generalized_iou(box_cxcywh_to_xyxy(mine), box_cxcywh_to_xyxy(truth))).sum() / count
    return loss, l1, giou


def focal_loss(logits: Tensor, hot: Tensor) -> Tensor:
    """Sigmoid focal loss of logits against 0 and 1 of the same shape, summed (alpha 0.25, gamma 2)."""
    entropy = F.binary_cross_entropy_with_logits(logits, hot, reduction="none")
    p = logits.sigmoid()
    wrong = hot * (1 - p) + (1 - hot) * p
    alpha = hot * FOCAL_ALPHA + (1 - hot) * (1 - FOCAL_ALPHA)
    return (alpha * wrong**FOCAL_GAMMA * entropy).sum()


def _target_cost(logits: Tensor, boxes: Tensor, target: Target, activation: Activation) -> Tensor:
    """[Q, n] from logits [Q, K'], boxes [Q, 4] and the n true boxes of one image."""
    classes, truth = target[0], target[1].to(boxes)
    p = class_probabilities(logits, activation)
    if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < p.shape[-1]:
        raise ClassMismatchError(
            f"boxes have classes 0 to {p.shape[-1] - 1}", got=f"{int(classes.max())}", do="use the model's own classes"
        )
    if activation == "softmax":
        affinity = p[:, classes]
    else:  # the focal loss of calling the query this class, less that of calling it none
        positive = -FOCAL_ALPHA * (1 - p) ** FOCAL_GAMMA * (p + 1e-8).log()
        negative = -(1 - FOCAL_ALPHA) * p**FOCAL_GAMMA * (1 - p + 1e-8).log()
        affinity = (negative - positive)[:, classes]
    return box_cost(boxes, truth) - CLASS_COST[activation] * affinity


def box_cost(boxes: Tensor, others: Tensor) -> Tensor:
    """[n, m] of 5 L1 - 2 GIoU between cxcywh boxes [n, 4] and [m, 4]."""
    corners, truth = box_cxcywh_to_xyxy(boxes)[:, None], box_cxcywh_to_xyxy(others)[None]
    return L1_WEIGHT * torch.cdist(boxes, others, p=1) - GIOU_WEIGHT * generalized_iou(corners, truth)
