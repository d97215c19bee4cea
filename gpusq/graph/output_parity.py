"""How far two forms of one model are apart in all outputs, whatever the task: one figure for every gate. No torch.

The agreement (`Parity.top1`) is the share of equal top-1 answers of a classifier, the share of boxes that both forms
of a detector find, and for any other head the share of images whose outputs all lie within CLOSE of each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gpusq.errors import NonFiniteError, ParityError
from gpusq.graph.parity import Parity, compare

if TYPE_CHECKING:
    from numpy.typing import NDArray

Outputs = Mapping[str, "NDArray[Any]"]
CLOSE = 0.1
"""Relative error (root mean square) of an image's output below which two forms of a "tensors" model agree on it."""


def compare_outputs(description: Mapping[str, Any], expected: Outputs, found: Outputs) -> Parity:
    """Compare outputs by name (arrays [n, ...], n >= 1) as the task of `description` (model.json) asks.

    relative: largest difference over the largest value, the worst of all outputs. Where the queries of a detector come
    in another order: of every query and the one that it was assigned to, logits and boxes alike (`Parity.paired`).
    relative_found: of the detections that both found. Raises ParityError for other names or shapes, NonFiniteError.
    """
    if expected.keys() != found.keys() or not expected:
        raise ParityError(f"outputs {', '.join(expected)} were expected", got=", ".join(found))
    task = description.get("task", "classification")
    if task == "classification":
        return compare(expected["logits"], found["logits"])
    _check(expected, found)
    if task == "detection":
        return _detections(str(description["activation"]), expected, found)
    return _tensors(expected, found)


def _check(expected: Outputs, found: Outputs) -> None:
    for name, a in expected.items():
        b = found[name]
        if a.shape != b.shape or not a.size:
            raise ParityError(f"output {name} of shape {a.shape} was expected", got=str(b.shape))
        for whose, array in (("expected", a), ("found", b)):
            if not np.isfinite(array).all():
                count = int((~np.isfinite(array)).sum())
                raise NonFiniteError(f"parity: {whose} {name} must be finite", got=f"{count} values that are not")


def _tensors(expected: Outputs, found: Outputs) -> Parity:
    agreeing = np.ones(len(next(iter(expected.values()))), bool)
    for name, a in expected.items():
        agreeing &= _image_errors(a, found[name]) < CLOSE
    largest, relative = _worst(expected, found)
    return Parity(largest, relative, float(agreeing.mean()), len(agreeing), "tensors")


def _detections(activation: Any, expected: Outputs, found: Outputs) -> Parity:
    from gpusq.graph.box_parity import found_of, match_queries, query_scores
    from gpusq.graph.query_order import assigned_error, paired_error

    one, other = (found_of(o["logits"], o["boxes"], activation) for o in (expected, found))
    boxes, queries = match_queries(one, other)
    mine, theirs = (query_scores(o["logits"], activation) for o in (expected, found))
    error, paired = _worst(expected, found), False
    *assigned, differs = assigned_error(expected, found, mine, theirs)
    if differs and assigned[1] < error[1]:
        error, paired = (assigned[0], assigned[1]), True
    return Parity(
        error[0],
        error[1],
        boxes.share,
        boxes.n,
        "detection",
        paired=paired,
        matched=boxes.matched,
        mean_iou=boxes.mean_iou,
        score=boxes.score,
        worst_score=boxes.worst_score,
        faint=boxes.faint,
        relative_found=paired_error(expected, found, queries)[1] if boxes.matched else error[1],
    )


def _worst(expected: Outputs, found: Outputs) -> tuple[float, float]:
    """(largest difference, largest difference over the largest value), each the worst of the outputs."""
    apart, relative = 0.0, 0.0
    for name, a in expected.items():
        wide = a.astype(np.float64)
        largest = float(np.abs(wide - found[name].astype(np.float64)).max())
        scale = float(np.abs(wide).max())
        apart, relative = max(apart, largest), max(relative, largest / scale if scale else largest)
    return apart, relative


def _image_errors(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """[n]: root of the squared differences over that of the expected values, image by image."""
    wide, other = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    scale = np.sqrt(np.square(wide).sum(axis=1))
    apart: NDArray[Any] = np.sqrt(np.square(wide - other).sum(axis=1))
    errors: NDArray[Any] = np.divide(apart, scale, out=apart.copy(), where=scale > 0)
    return errors
