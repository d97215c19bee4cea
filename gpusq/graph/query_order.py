"""How far the queries of two forms of a detector are apart, where their order may have changed. No torch.

A detector that picks its queries by top-k gives the same answers in another order after the smallest change; compared
index by index, an honest file then looks entirely wrong. Here each query stands beside the one that it was paired with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Outputs = Mapping[str, "NDArray[Any]"]
CLEARLY = 0.5
"""A query has moved to another index where the one there is nearer than this share of the distance at its own."""
SEEN = 32
"""Queries of an image, the worst first, that are looked for at other indices."""


def in_order(expected: Outputs, found: Outputs) -> bool:
    """Whether no query [n, Q, ...] of `expected` is clearly nearer to one at another index of `found`."""
    scales = _scales(expected)
    for image in range(len(next(iter(expected.values())))):
        a, b = (_values(side, image, scales) for side in (expected, found))
        own = _distance(a, b)
        for query in np.argsort(-own)[:SEEN].tolist():
            if own[query] and _distance(a[query], b).min() < CLEARLY * own[query]:
                return False
    return True


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
        kept = pairs[_nearest(pairs, _distance(a[pairs[:, 0]], b[pairs[:, 1]]))]
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


def _scales(expected: Outputs) -> dict[str, float]:
    """Largest value of each output; 1 for one that is zero throughout."""
    return {name: float(np.abs(values).max()) or 1.0 for name, values in expected.items()}


def _values(outputs: Outputs, image: int, scales: Mapping[str, float]) -> NDArray[Any]:
    """[Q, D]: all values of an image's queries, each output over its scale."""
    parts = [outputs[name][image].astype(np.float64) / scale for name, scale in scales.items()]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def _distance(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Largest difference of values [..., D] -> [...]."""
    largest: NDArray[Any] = np.abs(a - b).max(axis=-1)
    return largest
