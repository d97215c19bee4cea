"""What goes wrong with the outputs of a detector, one fault at a time.

logits [n, Q, K], boxes [n, Q, 4] as cx, cy, w, h.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Outputs = dict[str, np.ndarray[Any, Any]]


def wider(found: Mapping[str, Any]) -> Outputs:
    """Every box 20 % wider."""
    return {**found, "boxes": found["boxes"] * np.float32([1, 1, 1.2, 1])}


def moved(found: Mapping[str, Any]) -> Outputs:
    """Every box moved by 2 % of the image, right and down."""
    return {**found, "boxes": found["boxes"] + np.float32([0.02, 0.02, 0, 0])}


def shifted(found: Mapping[str, Any]) -> Outputs:
    """The score of each query's best class 0.2 higher, or lower where it is at least 0.6 (softmax)."""
    powers = np.exp(found["logits"].astype(np.float64))
    shares = powers / powers.sum(axis=-1, keepdims=True)
    best = shares[..., :-1].argmax(axis=-1)[..., None]
    score = np.take_along_axis(shares, best, -1)
    wanted = np.where(score < 0.6, score + 0.2, score - 0.2)
    changed = shares * (1 - wanted) / (1 - score)
    np.put_along_axis(changed, best, wanted, -1)
    return {**found, "logits": np.log(changed).astype(np.float32)}


def shifted_sigmoid(found: Mapping[str, Any]) -> Outputs:
    """The same for a head whose classes each have a score of their own: all of them."""
    score = 1 / (1 + np.exp(-found["logits"].astype(np.float64)))
    wanted = np.where(score < 0.6, score + 0.2, score - 0.2)
    return {**found, "logits": np.log(wanted / (1 - wanted)).astype(np.float32)}


def swapped(found: Mapping[str, Any]) -> Outputs:
    """The first two classes change places."""
    order = [1, 0, *range(2, found["logits"].shape[-1])]
    return {**found, "logits": found["logits"][..., order]}


def permuted(found: Mapping[str, Any]) -> Outputs:
    """The queries in another order: no fault."""
    order = np.random.default_rng(0).permutation(found["boxes"].shape[1])
    return {name: values[:, order] for name, values in found.items()}


FAULTS: dict[str, Callable[[Mapping[str, Any]], Outputs]] = {
    "wider": wider,
    "moved": moved,
    "shifted": shifted,
    "swapped": swapped,
}
