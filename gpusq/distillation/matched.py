"""What a detector learns from its teacher: losses on queries of both that are matched with each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gpusq.detection import CONFIDENT, FAINT
from gpusq.distillation.boxes import box_cxcywh_to_xyxy, generalized_iou
from gpusq.distillation.hungarian import (
    GIOU_WEIGHT,
    L1_WEIGHT,
    NO_OBJECT,
    Activation,
    Match,
    Target,
    box_cost,
    class_probabilities,
    least_cost_pairs,
)

CLASS_COST = 2.0  # of the difference of two queries' probabilities, beside 5 L1 and 2 GIoU of their boxes
EPSILON = 1e-6


class Pairs(NamedTuple):
    """Matched queries of a student and its teacher, for a batch: logits [B, n, K'], boxes [B, n, 4] of both.

    order: [B, n] teacher's query of each student's query. Both are in the student's order of queries.
    """

    student_logits: Tensor
    student_boxes: Tensor
    teacher_logits: Tensor
    teacher_boxes: Tensor
    order: Tensor


def match_queries(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], activation: Activation) -> Pairs:
    """Each query of the student with one of the teacher at least cost in probabilities and boxes.

    Both give (logits [B, Q, K'], boxes [B, Q, 4]); where their Q differ, min of them are matched. Queries that a
    model selects or permutes are found again, whatever their index. Raises NonFiniteError.
    """
    found = [
        _match_image(s, b, t, c, activation)
        for s, b, t, c in zip(student[0], student[1], teacher[0], teacher[1], strict=True)
    ]
    mine, theirs = (torch.stack(index) for index in zip(*found, strict=True))
    return Pairs(
        _take(student[0], mine), _take(student[1], mine), _take(teacher[0], theirs), _take(teacher[1], theirs), theirs
    )


def matched_soft_loss(pairs: Pairs, activation: Activation, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) of matched queries times T^2, plus 5 L1 + 2 (1 - GIoU) to the teacher's boxes.

    A query counts by the teacher's probability p that it holds an object: classes by p + 0.1 (1 - p), boxes by p.
    Weighted mean over the queries of each image, then mean over images; 0 where student and teacher are equal.
    """
    p = object_probability(pairs.teacher_logits, activation)
    divergence = _divergence(pairs.student_logits.float(), pairs.teacher_logits.float(), activation, temperature)
    mine, theirs = pairs.student_boxes.float(), pairs.teacher_boxes.float()
    # Subtracting the teacher's own GIoU with itself (1 but for rounding) makes equal boxes cost exactly nothing.
    own = generalized_iou(box_cxcywh_to_xyxy(theirs), box_cxcywh_to_xyxy(theirs))
    giou = own - generalized_iou(box_cxcywh_to_xyxy(mine), box_cxcywh_to_xyxy(theirs))
    box = L1_WEIGHT * (mine - theirs).abs().sum(-1) + GIOU_WEIGHT * giou
    return (_weighted_mean(divergence, p + NO_OBJECT * (1 - p)) + _weighted_mean(box, p)).mean()


def agreement(pairs: Pairs, activation: Activation) -> Tensor:
    """[B] in 0..1: share of matched pairs with the same class, among pairs where one of the two holds an object.

    As `graph.box_parity` judges one image: queries whose best class scores CONFIDENT or more, whatever "no object"
    scores beside it; where neither model is that sure of any query, the better half of each one's queries. 1 without
    any such pair.
    """
    logits = (pairs.student_logits, pairs.teacher_logits)
    bars = _bars(logits, activation)
    mine, theirs = (labels_of(x, activation, least) for x, least in zip(logits, bars, strict=True))
    none = class_probabilities(pairs.teacher_logits, activation).shape[-1]
    seen = (mine != none) | (theirs != none)
    same = ((mine == theirs) & seen).sum(dim=1).float()
    count = seen.sum(dim=1)
    return torch.where(count > 0, same / count.clamp(min=1), torch.ones_like(same))


def _bars(logits: tuple[Tensor, Tensor], activation: Activation) -> list[Tensor]:
    """[B, 1] of both models: CONFIDENT, or on images where no query of either reaches it the median score."""
    best = [class_probabilities(x.float(), activation).amax(dim=-1) for x in logits]
    sure = (torch.cat(best, dim=1) >= CONFIDENT).any(dim=1, keepdim=True)
    half = [x.quantile(0.5, dim=1, keepdim=True) * (1 - EPSILON) for x in best]  # equal but for rounding is equal
    return [torch.where(sure, CONFIDENT, x) for x in half]


def labels_of(logits: Tensor, activation: Activation, least: float | Tensor = CONFIDENT) -> Tensor:
    """The best class of each query [..., Q] where its score is from `least` on, K for none.

    Softmax: "no object" is no class here, however large; a class at 0.40 beside it at 0.44 is found.
    """
    probabilities = class_probabilities(logits.float(), activation)
    best, label = probabilities.max(dim=-1)
    return torch.where(best >= least, label, torch.full_like(label, probabilities.shape[-1]))


def teacher_targets(logits: Tensor, boxes: Tensor, activation: Activation) -> list[Target]:
    """The teacher's own detections as targets: the classes and boxes of its queries that hold an object.

    Those whose best class scores CONFIDENT or more. Where the teacher is that sure of nothing in the whole batch, those
    with at least half of the batch's best score, from FAINT on. (The better half of all queries, by which
    agreement is judged, would teach objects on every empty image.)
    """
    probabilities = class_probabilities(logits.float(), activation)
    none, best = probabilities.shape[-1], probabilities.max()
    least = torch.where(best >= CONFIDENT, CONFIDENT, (best / 2).clamp(min=FAINT))
    labels = labels_of(logits, activation, least)
    return [(c[c != none], b[c != none]) for c, b in zip(labels, boxes, strict=True)]


def object_probability(logits: Tensor, activation: Activation) -> Tensor:
    """[..., Q] probability that a query holds an object: 1 - no object, or the best class under sigmoid."""
    p = class_probabilities(logits.float(), activation)
    return p.sum(dim=-1) if activation == "softmax" else p.amax(dim=-1)


def in_students_order(
    features: Mapping[str, Tensor], pairs: Pairs, queries: int, student: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The teacher's block outputs, those over its `queries` ([B, Q, D]) put in the student's order of queries.

    An image keeps the teacher's own order where that is nearer to the student's output of the block: an encoder may
    have as many tokens as there are queries, and tokens stand where they stand.
    """
    batch, count = pairs.order.shape
    found = dict(features)
    for name, x in features.items():
        if count == queries and x.dim() == 3 and x.shape[:2] == (batch, queries):
            found[name] = _nearer(x, _take(x, pairs.order), student.get(name))
    return found


def _nearer(own: Tensor, moved: Tensor, student: Tensor | None) -> Tensor:
    """Of each image, whichever of the two [B, Q, D] is nearer to the student's; `moved` for another shape."""
    if student is None or student.shape != own.shape:
        return moved
    with torch.no_grad():
        gain = (student - own).square().mean((1, 2)) - (student - moved).square().mean((1, 2))
    return torch.where((gain > 0)[:, None, None], moved, own)


def batch_first(features: Mapping[str, Tensor], batch: int) -> dict[str, Tensor]:
    """Block outputs with the batch of size `batch` in front: [L, B, D] is turned, [B * windows, ...] gathered."""
    found = {}
    for name, x in features.items():
        if x.shape[0] != batch and x.dim() > 2 and x.shape[1] == batch:
            x = x.transpose(0, 1)
        elif x.shape[0] != batch and x.shape[0] % batch == 0:
            x = x.reshape(batch, -1, *x.shape[1:])
        found[name] = x
    return found


def _match_image(
    logits: Tensor, boxes: Tensor, teacher: Tensor, teacher_boxes: Tensor, activation: Activation
) -> tuple[Tensor, Tensor]:
    """(student's queries in their order [n], teacher's query of each [n]) of one image."""
    with torch.no_grad():
        p, q = (class_probabilities(x.float(), activation) for x in (logits, teacher))
        cost = CLASS_COST * torch.cdist(p, q, p=1) + box_cost(boxes.float(), teacher_boxes.float())
    pair: Match = least_cost_pairs(cost)
    return pair.queries, pair.targets  # rows come in ascending order


def _divergence(student: Tensor, teacher: Tensor, activation: Activation, temperature: float) -> Tensor:
    """[B, n] KL of each query's distribution; under sigmoid the sum over its K independent classes."""
    s, t = student / temperature, teacher / temperature
    if activation == "softmax":
        found = F.kl_div(s.log_softmax(-1), t.log_softmax(-1), reduction="none", log_target=True)
    else:
        yes = F.kl_div(F.logsigmoid(s), F.logsigmoid(t), reduction="none", log_target=True)
        found = yes + F.kl_div(F.logsigmoid(-s), F.logsigmoid(-t), reduction="none", log_target=True)
    return found.sum(-1) * temperature**2


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """[B] from [B, n]."""
    return (values * weights).sum(dim=1) / (weights.sum(dim=1) + EPSILON)


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Rows [B, n, ...] of x [B, Q, ...]."""
    return torch.stack([rows[i] for rows, i in zip(x, index, strict=True)])
