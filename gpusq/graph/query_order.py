"""How far the queries of two forms of a detector are apart, where their order may have changed. No torch.

A detector that picks its queries by top-k gives the same answers in another order after the smallest change; compared
index by index, an honest file then looks entirely wrong. Here each query stands beside the one that it was paired with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Outputs = Mapping[str, "NDArray[Any]"]
CLEARLY = 0.5
"""A query has moved to another index where the one there is nearer than this share of the distance at its own."""
SEEN = 32
"""Queries of an image, the worst first, that are looked for at other indices."""
LOST = 0.005
"""Share of all queries that a selection may have exchanged: those that scored worst, of images in another order."""


def assigned_error(
    expected: Outputs, found: Outputs, mine: NDArray[Any], theirs: NDArray[Any]
) -> tuple[float, float, bool]:
    """(largest difference, the same over the largest value, whether the order differs) over all queries, one to one.

    mine, theirs [n, Q]: the best score of each query of `expected` and of `found`, 0 to 1. Of images in another order
    each query stands beside the nearest that is free. There, queries below the image's median score may be without a
    partner, as the last ones of a selection by score are: at most LOST of all queries are left out of the figures.
    """
    scales = _scales(expected)
    rows: list[NDArray[Any]] = []
    spare: list[NDArray[Any]] = []
    differs = False
    for index, (a, b) in enumerate(_images(expected, found)):
        own = np.arange(len(a))
        partner = own if _image_in_order(a, b) else _assign(a, b)
        moved = not np.array_equal(partner, own)  # one that went astray alone is no other order
        rows.append(_errors(expected, found, index, partner, scales))
        best = np.maximum(mine[index], theirs[index][partner])
        spare.append((best < np.median(mine[index])) & moved)
        differs |= moved
    errors, excused = np.concatenate(rows), np.concatenate(spare)
    kept = _without_the_worst(errors[:, 1], excused)
    worst = errors[kept].max(axis=0, initial=0.0)
    return float(worst[0]), float(worst[1]), differs


def paired_error(expected: Outputs, found: Outputs, queries: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """(largest difference, the same over the largest value), the worst output, each query beside its nearest partner.

    queries: of each image the pairs that may be partners, [m, 2] int (`match_queries`); both sides are judged, so a
    query on either that is far from all its partners counts. (0, 0) where there are no pairs.
    """
    scales = _scales(expected)
    apart, relative = 0.0, 0.0
    for image, pairs in enumerate(queries):
        if not len(pairs):
            continue
        a, b = (_values(side, image, scales) for side in (expected, found))
        kept = pairs[_nearest(pairs, np.abs(a[pairs[:, 0]] - b[pairs[:, 1]]).max(axis=-1))]
        for name, scale in scales.items():
            one, other = (side[name][image].astype(np.float64) for side in (expected, found))
            largest = float(np.abs(one[kept[:, 0]] - other[kept[:, 1]]).max())
            apart, relative = max(apart, largest), max(relative, largest / scale)
    return apart, relative


def _nearest(pairs: NDArray[Any], distance: NDArray[Any]) -> NDArray[Any]:
    """Indices into `pairs` [m, 2]: of every query of either side its pair of least `distance` [m]."""
    kept: list[NDArray[Any]] = []
    for side in (0, 1):
        order = np.lexsort((distance, pairs[:, side]))
        kept.append(order[np.unique(pairs[order, side], return_index=True)[1]])
    return np.concatenate(kept)


def _image_in_order(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether no query of a [Q, D] is clearly nearer to one at another index of b [Q, D]."""
    own = np.abs(a - b).max(axis=-1)
    worst = np.argsort(-own)[:SEEN].tolist()
    return not any(own[q] and np.abs(a[q] - b).max(axis=-1).min() < CLEARLY * own[q] for q in worst)


def _assign(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """[Q]: the query of b [Q, D] for each of a [Q, D], one to one: those that are nearest to each other first."""
    distance = _distances(a, b)
    partner = np.full(len(a), -1)
    rows, columns = np.arange(len(a)), np.arange(len(b))
    while len(rows):
        left = distance[np.ix_(rows, columns)]
        theirs, mine = left.argmin(axis=1), left.argmin(axis=0)
        mutual = mine[theirs] == np.arange(len(rows))  # the least distance of all is always mutual
        partner[rows[mutual]] = columns[theirs[mutual]]
        columns = np.delete(columns, theirs[mutual])
        rows = rows[~mutual]
    return partner


def _distances(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """[Q, Q]: largest difference of the values [Q, D] of each query of a and each of b."""
    largest = np.zeros((len(a), len(b)))
    for one, other in zip(a.T, b.T, strict=True):
        np.maximum(largest, np.abs(one[:, None] - other[None]), out=largest)
    return largest


def _errors(
    expected: Outputs, found: Outputs, image: int, partner: NDArray[Any], scales: Mapping[str, float]
) -> NDArray[Any]:
    """[Q, 2]: of each query the largest difference, and the largest over the scale of its output."""
    whole: NDArray[Any] = np.zeros((len(partner), 2))
    for name, scale in scales.items():
        one, other = expected[name][image].astype(np.float64), found[name][image][partner].astype(np.float64)
        apart = np.abs(one - other).reshape(len(partner), -1).max(axis=-1)
        whole = np.maximum(whole, np.stack([apart, apart / scale], axis=1))
    return whole


def _without_the_worst(errors: NDArray[Any], excused: NDArray[Any]) -> NDArray[Any]:
    """[n] bool: all but the LOST share of the queries that are excused and have the largest errors."""
    kept = np.ones(len(errors), bool)
    count = min(int(LOST * len(errors)), int(excused.sum()))
    if count:
        candidates = np.flatnonzero(excused)
        kept[candidates[np.argsort(-errors[candidates], kind="stable")[:count]]] = False
    return kept


def _images(expected: Outputs, found: Outputs) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """The values of each image's queries on both sides."""
    scales = _scales(expected)
    for image in range(len(next(iter(expected.values())))):
        yield _values(expected, image, scales), _values(found, image, scales)


def _scales(expected: Outputs) -> dict[str, float]:
    """Largest value of each output; 1 for one that is zero throughout."""
    return {name: float(np.abs(values).max()) or 1.0 for name, values in expected.items()}


def _values(outputs: Outputs, image: int, scales: Mapping[str, float]) -> NDArray[Any]:
    """[Q, D]: all values of an image's queries, each output over its scale."""
    parts = [outputs[name][image].astype(np.float64) / scale for name, scale in scales.items()]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
