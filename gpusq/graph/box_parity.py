"""How far the detections of two forms of one model are apart, compared as sets: the order of queries means nothing.

Detectors that choose their queries by top-k give the same detections in another order after the smallest change, and
with fresh weights all scores are nearly equal; so detections are paired by class and overlap, best overlap first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpusq.detection import CONFIDENT, FAINT
from gpusq.errors import NonFiniteError, ParityError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Activation = Literal["softmax", "sigmoid"]
TOP = 100
FEW = 10
"""Faint detections below which their share says nothing."""
SLACK, HALF = 0.1, 0.5
"""Scores of one detection in two forms differ by no more than SLACK, or the smaller is at least HALF of the larger."""


@dataclass(frozen=True)
class Found:
    """The detections of one image. scores [n] 0..1, classes [n] int, boxes [n, 4] as x0, y0, x1, y1 in any unit.

    queries [n] int: the query that gave each; left out: each is its own.
    """

    scores: NDArray[Any]
    classes: NDArray[Any]
    boxes: NDArray[Any]
    queries: NDArray[Any] | None = None


@dataclass(frozen=True)
class BoxParity:
    """Detections of two forms. share: pairs over n, 0 to 1 (1.0 where both are empty).

    score: mean |score difference| of the pairs. worst_score: the largest. mean_iou: mean overlap of the pairs.
    n: pairs and those left alone, of each image's worse side. images: how many. matched: the pairs. faint: share of the
    faint_n detections that score from FAINT but are not confident; None for fewer than FEW, and where the better half
    of all answers was compared.
    """

    share: float
    score: float
    worst_score: float
    mean_iou: float
    n: int
    images: int
    matched: int = 0
    faint: float | None = None
    faint_n: int = 0


def found_of(logits: NDArray[Any], boxes: NDArray[Any], activation: Activation, *, top: int = TOP) -> tuple[Found, ...]:
    """The `top` best (query, class) answers of each image, ready for `match_detections`.

    logits [n, Q, K'] (softmax: the last column is "no object"), boxes [n, Q, 4] as cx, cy, w, h. With softmax each
    query gives its best class, with sigmoid each pair counts, as the detectors' own post-processing has it.
    Raises ParityError for other shapes, NonFiniteError for NaN or infinity.
    """
    if logits.ndim != 3 or boxes.shape != (*logits.shape[:2], 4):
        raise ParityError("logits [n, Q, K] and boxes [n, Q, 4] were expected", got=f"{logits.shape} and {boxes.shape}")
    for name, array in (("logits", logits), ("boxes", boxes)):
        if not np.isfinite(array).all():
            raise NonFiniteError(f"parity: {name} must be finite", got=f"{int((~np.isfinite(array)).sum())} are not")
    if activation not in ("softmax", "sigmoid"):
        raise ParityError("an activation is softmax or sigmoid", got=repr(activation))
    return tuple(_best(one, corners(box), activation, top) for one, box in zip(logits, boxes, strict=True))


def query_scores(logits: NDArray[Any], activation: Activation) -> NDArray[Any]:
    """[n, Q]: the score (0 to 1) of the best class of each query, from logits [n, Q, K'] as `found_of` takes them."""
    best: NDArray[Any] = _class_scores(logits.astype(np.float64), activation).max(axis=-1)
    return best


def _class_scores(values: NDArray[Any], activation: Activation) -> NDArray[Any]:
    """Scores 0 to 1 [..., K] of logits [..., K']: with softmax without the last column, "no object"."""
    if activation == "softmax":
        powers = np.exp(values - values.max(axis=-1, keepdims=True))
        shares: NDArray[Any] = (powers / powers.sum(axis=-1, keepdims=True))[..., :-1]
        return shares
    scores: NDArray[Any] = 1 / (1 + np.exp(-np.clip(values, -700, 700)))
    return scores


def _best(logits: NDArray[Any], boxes: NDArray[Any], activation: Activation, top: int) -> Found:
    scores = _class_scores(logits.astype(np.float64), activation)
    if activation == "softmax":
        queries, classes = np.arange(len(scores)), scores.argmax(axis=-1)
    else:
        queries, classes = (x.ravel() for x in np.indices(scores.shape))
    kept = np.argsort(-scores[queries, classes], kind="stable")[:top]
    queries, classes = queries[kept], classes[kept]
    return Found(scores[queries, classes], classes, boxes[queries], queries)


def corners(boxes: NDArray[Any]) -> NDArray[Any]:
    """[..., 4] cx, cy, w, h -> x0, y0, x1, y1, in float64."""
    centre, half = boxes[..., :2].astype(np.float64), boxes[..., 2:].astype(np.float64) / 2
    return np.concatenate([centre - half, centre + half], axis=-1)


def match_detections(
    a: Sequence[Found], b: Sequence[Found], iou: float = 0.5, *, confident: float = CONFIDENT
) -> BoxParity:
    """Pair the detections of a and b, image by image: same class, overlap of at least `iou`, the best overlap first.

    Compared are detections that score at least `confident` on either side; their partner may score less (see SLACK and
    HALF), so that a score on the edge is no loss, but one that vanished is. Those that score from FAINT are then
    compared among themselves, for a share of their own. Where there is less than one confident detection for each
    image (fresh weights), the better half of each image's answers is compared instead. Symmetric in a and b, whatever
    the order within an image. Raises ParityError for different numbers of images.
    """
    return match_queries(a, b, iou, confident=confident)[0]


def match_queries(
    a: Sequence[Found], b: Sequence[Found], iou: float = 0.5, *, confident: float = CONFIDENT
) -> tuple[BoxParity, list[NDArray[Any]]]:
    """`match_detections`, and for each image the pairs of queries that could have been paired: [m, 2] int, of a and b.

    Several queries often lie on one box; so each query of a pair, faint ones too, stands beside all of the other side
    that are of the same class and overlap it by `iou`. An empty [0, 2] where nothing was paired.
    """
    if len(a) != len(b) or not len(a):
        raise ParityError("detections of the same images were expected", got=f"{len(a)} and {len(b)} images")
    sure = max(sum(int((x.scores >= confident).sum()) for x in side) for side in (a, b))
    least = confident if sure >= len(a) else None
    pairs = [_pairs(x, y, iou, least) for x, y in zip(a, b, strict=True)]
    matched, lone = sum(len(p.score) for p in pairs), sum(p.lone for p in pairs)
    score, overlap = np.concatenate([p.score for p in pairs]), np.concatenate([p.overlap for p in pairs])
    faint, faint_n = sum(p.faint for p in pairs), sum(p.faint + p.faint_lone for p in pairs)
    parity = BoxParity(
        matched / (matched + lone) if matched + lone else 1.0,
        float(score.mean()) if matched else 0.0,
        float(score.max()) if matched else 0.0,
        float(overlap.mean()) if matched else 0.0,
        matched + lone,
        len(a),
        matched,
        faint / faint_n if faint_n >= FEW else None,
        faint_n,
    )
    return parity, [p.queries for p in pairs]


@dataclass(frozen=True)
class _Pairs:
    """Of one image: score difference and overlap of each pair, and how many of the worse side stayed alone.

    queries [m, 2]: see `match_queries`. faint, faint_lone: pairs among faint detections, and those left alone.
    """

    score: NDArray[Any]
    overlap: NDArray[Any]
    lone: int
    queries: NDArray[Any]
    faint: int
    faint_lone: int


def _pairs(a: Found, b: Found, iou: float, least: float | None) -> _Pairs:
    a, b = _sorted(a), _sorted(b)
    difference = np.abs(a.scores[:, None] - b.scores[None])
    same = (a.classes[:, None] == b.classes[None]) & _alike(a.scores, b.scores)
    overlap = np.where(same, overlaps(a.boxes, b.boxes), -1.0)
    sure_a, sure_b = _sure(a, least), _sure(b, least)
    rows, columns, lone = _pair_those(sure_a, sure_b, overlap, difference, iou)
    queries = [_queries(a, b, overlap >= iou, rows, columns)]
    faint, faint_lone = 0, 0
    if least is not None:
        free_a, free_b = _without(len(sure_a), rows), _without(len(sure_b), columns)
        left = np.where(free_a[:, None] & free_b[None], overlap, -1.0)
        faint_a, faint_b = (
            (x.scores >= FAINT) & ~sure & free for x, sure, free in ((a, sure_a, free_a), (b, sure_b, free_b))
        )
        more_rows, more_columns, faint_lone = _pair_those(faint_a, faint_b, left, difference, iou)
        queries.append(_queries(a, b, overlap >= iou, more_rows, more_columns))
        faint = len(more_rows)
    return _Pairs(difference[rows, columns], overlap[rows, columns], lone, np.concatenate(queries), faint, faint_lone)


def _pair_those(
    wanted_a: NDArray[Any], wanted_b: NDArray[Any], overlap: NDArray[Any], difference: NDArray[Any], iou: float
) -> tuple[NDArray[Any], NDArray[Any], int]:
    """(rows, columns, how many of the worse side stay alone) of the pairs of which one side at least is wanted."""
    rows, columns = _greedy(np.where(wanted_a[:, None] | wanted_b[None], overlap, -1.0), difference, iou)
    lone = max(int(wanted_a.sum() - wanted_a[rows].sum()), int(wanted_b.sum() - wanted_b[columns].sum()))
    return rows, columns, lone


def _alike(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """[n, m]: whether two scores may be those of one detection."""
    low, high = np.minimum(a[:, None], b[None]), np.maximum(a[:, None], b[None])
    alike: NDArray[Any] = (high - low <= SLACK) | (low >= HALF * high)
    return alike


def _without(count: int, taken: NDArray[Any]) -> NDArray[Any]:
    free = np.ones(count, bool)
    free[taken] = False
    return free


def _queries(a: Found, b: Found, near: NDArray[Any], rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[Any]:
    """[m, 2]: queries of paired detections beside every paired one that is `near` [n_a, n_b]."""
    of_a, of_b = (np.arange(len(x.scores)) if x.queries is None else x.queries for x in (a, b))
    first, second = np.nonzero(near[np.ix_(rows, columns)])
    found: NDArray[Any] = np.unique(np.stack([of_a[rows[first]], of_b[columns[second]]], axis=1), axis=0)
    return found


def _sorted(found: Found) -> Found:
    """The same detections in an order that depends on nothing but themselves, so that ties are broken alike."""
    order = np.lexsort((*found.boxes.T, found.scores, found.classes))
    queries = order if found.queries is None else found.queries[order]
    return Found(found.scores[order], found.classes[order], found.boxes[order], queries)


def _greedy(overlap: NDArray[Any], difference: NDArray[Any], iou: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows and columns of the pairs: largest overlap first, among equal overlaps the nearest scores."""
    rows, columns = np.nonzero(overlap >= iou)
    near = np.round(overlap[rows, columns], 3)  # many queries on one box: let the scores decide
    order = np.lexsort((np.abs(rows - columns), rows + columns, difference[rows, columns], -near))
    free_rows, free_columns = np.ones(overlap.shape[0], bool), np.ones(overlap.shape[1], bool)
    kept: list[int] = []
    for index in order.tolist():
        row, column = rows[index], columns[index]
        if free_rows[row] and free_columns[column]:
            free_rows[row] = free_columns[column] = False
            kept.append(index)
    return rows[kept], columns[kept]


def _sure(found: Found, least: float | None) -> NDArray[Any]:
    if least is None:
        least = float(np.median(found.scores)) if len(found.scores) else 0.0
    sure: NDArray[Any] = found.scores >= least
    return sure


def overlaps(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Intersection over union of boxes [n, 4] and [m, 4] (x0, y0, x1, y1) -> [n, m]; 1 for two equal empty boxes."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=-1)
    union = _area(a)[:, None] + _area(b)[None] - both
    same = np.all(np.isclose(a[:, None], b[None], atol=1e-6), axis=-1)
    shares: NDArray[Any] = np.divide(both, union, out=same.astype(np.float64), where=union > 1e-12)
    return shares


def _area(boxes: NDArray[Any]) -> NDArray[Any]:
    area: NDArray[Any] = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=-1)
    return area
