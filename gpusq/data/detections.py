"""What a detector says of one image, from its raw outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gpusq.data.boxes import Float64, box_cxcywh_to_xyxy, pixels_of
from gpusq.errors import DataError, NonFiniteError

Activation = Literal["softmax", "sigmoid"]
TOP = 100  # COCO judges at most this many of one image


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects found on one image, best first.

    scores: float32 [n], 0..1. classes: int64 [n]. boxes: float32 [n, 4] (x0, y0, x1, y1) in pixels of the original
    image; they may reach over its edge. Raises DataError where these do not fit together.
    """

    scores: NDArray[np.float32]
    classes: NDArray[np.int64]
    boxes: NDArray[np.float32]

    def __post_init__(self) -> None:
        n = len(self.scores)
        if self.scores.shape != (n,) or self.classes.shape != (n,) or self.boxes.shape != (n, 4):
            got = f"{list(self.scores.shape)}, {list(self.classes.shape)} and {list(self.boxes.shape)}"
            raise DataError("detections need scores [n], classes [n] and boxes [n, 4]", got=got)

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, threshold: float) -> Detections:
        """Those with at least this score."""
        kept = self.scores >= threshold
        return Detections(self.scores[kept], self.classes[kept], self.boxes[kept])


def detections_of(
    logits: NDArray[np.floating],
    boxes: NDArray[np.floating],
    activation: Activation,
    size: tuple[int, int],
    top: int = TOP,
) -> Detections:
    """The `top` best detections of one image of (height, width) `size`, as the model families' own papers read them.

    logits [Q, K'], boxes [Q, 4] (centre x, centre y, width, height) in 0..1. "softmax": K' = K + 1 with "no object"
    last; each query gives its best class (DETR, arXiv:2005.12872). "sigmoid": K' = K; the best (query, class) pairs,
    so that a query may speak for several classes (Deformable DETR, arXiv:2010.04159). Equal scores keep the order of
    the queries. Nothing is suppressed. Raises DataError for other shapes, NonFiniteError for NaN or infinity.
    """
    _check(logits, boxes, activation)
    scores, query, label = _scored(logits.astype(np.float64), activation)
    best = np.argsort(-scores, kind="stable")[:top]
    corners = box_cxcywh_to_xyxy(boxes[query[best]].astype(np.float64)) * pixels_of(size)
    return Detections(scores[best].astype(np.float32), label[best].astype(np.int64), corners.astype(np.float32))


def _scored(logits: Float64, activation: Activation) -> tuple[Float64, NDArray[np.integer], NDArray[np.integer]]:
    """(score, query, class) of every candidate."""
    if activation == "softmax":
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = (powers / powers.sum(axis=1, keepdims=True))[:, :-1]
        return shares.max(axis=1), np.arange(len(logits)), shares.argmax(axis=1)
    with np.errstate(over="ignore"):  # exp of a very unlikely class; its share is 0 all the same
        shares = 1 / (1 + np.exp(-logits))
    query, label = np.divmod(np.arange(shares.size), shares.shape[1])
    return shares.reshape(-1), query, label


def _check(logits: NDArray[np.floating], boxes: NDArray[np.floating], activation: Activation) -> None:
    least = 2 if activation == "softmax" else 1
    if logits.ndim != 2 or logits.shape[1] < least or boxes.shape != (len(logits), 4):
        got = f"{list(logits.shape)} and {list(boxes.shape)}"
        raise DataError("a detector gives logits [Q, K'] and boxes [Q, 4]", got=got)
    if not (np.isfinite(logits).all() and np.isfinite(boxes).all()):
        raise NonFiniteError("logits and boxes must be finite", got="NaN or infinity", do="check the model")
