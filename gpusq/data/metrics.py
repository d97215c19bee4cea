"""Accuracy of logits against labels, and of two models against each other. Shares are 0..1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpusq.errors import ClassMismatchError, DataError, NonFiniteError

Logits = NDArray[np.floating]
Labels = NDArray[np.integer]


def top1(logits: Logits, labels: Labels) -> float:
    """Share of rows whose largest logit (the first of equal ones) is the label's. logits [N, C], labels [N]."""
    return topk(logits, labels, 1)


def topk(logits: Logits, labels: Labels, k: int) -> float:
    """Share of rows whose label is among the k largest logits; equal logits rank by class, lower first.

    logits [N, C], N >= 1, finite. labels [N] in 0 .. C - 1. k in 1 .. C.
    Raises DataError for other shapes, ClassMismatchError for labels outside, NonFiniteError for NaN or infinity.
    """
    _check_logits(logits)
    count, classes = logits.shape
    if labels.shape != (count,):
        raise DataError(f"{count} rows of logits need as many labels", got=f"labels {list(labels.shape)}")
    if not 1 <= k <= classes:
        raise DataError(f"top-k of {classes} classes needs k from 1 to {classes}", got=str(k))
    if labels.min() < 0 or labels.max() >= classes:
        got = f"{labels.min()} to {labels.max()}"
        raise ClassMismatchError(f"labels must be 0 to {classes - 1}", got=got, do="use the model's own classes")
    chosen = np.take_along_axis(logits, labels[:, None].astype(np.int64), axis=1)
    lower = np.arange(classes) < labels[:, None]
    rank = (logits > chosen).sum(axis=1) + ((logits == chosen) & lower).sum(axis=1)
    return float((rank < k).mean())


def agreement(a: Logits, b: Logits) -> float:
    """Share of rows in which both have their largest logit at the same class. a, b: [N, C], N >= 1, finite."""
    _check_logits(a)
    _check_logits(b)
    if a.shape != b.shape:
        raise DataError("agreement needs logits of one shape", got=f"{list(a.shape)} and {list(b.shape)}")
    return float((a.argmax(axis=1) == b.argmax(axis=1)).mean())


def _check_logits(logits: Logits) -> None:
    if logits.ndim != 2 or 0 in logits.shape:
        raise DataError("logits must be [N, C] with at least one row", got=str(list(logits.shape)))
    if not np.isfinite(logits).all():
        row = int(np.argwhere(~np.isfinite(logits))[0][0])
        raise NonFiniteError("logits must be finite", got=f"NaN or infinity in row {row}", do="check the model")
