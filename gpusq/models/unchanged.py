"""The canonical form of a model gives what the model itself gave: one image through both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gpusq.errors import UnsupportedModelError
from gpusq.models.description import Task

TOLERANCE = 1e-3
"""Largest difference over the largest value. Rounding in float32 is far below it."""


def check_unchanged(before: Sequence[Tensor], after: Sequence[Tensor], task: Task) -> None:
    """Raise UnsupportedModelError where the outputs of one image differ by more than TOLERANCE of their largest value.

    before, after: logits [1, classes], (logits [1, Q, K'], boxes [1, Q, 4]), or other tensors. Queries of a detector
    may change places: where they are chosen by score, rounding decides between equals.
    """
    apart = _differences(before, after)
    if task == "detection" and len(apart) == len(before) and not _small(apart):
        apart = [_apart_in_any_order(before, after)]
    if not _small(apart):
        raise UnsupportedModelError(
            "a model gives the same outputs once its attention and patch embedding are rewritten as linear layers",
            got=f"differences of {', '.join(f'{x:.2g}' for x in apart)} of the largest value, one image in eval mode",
            do="make the forward compute the same each time in eval mode, and let no module read the weights of "
            "another's attention or patch embedding",
        )


def _differences(before: Sequence[Tensor], after: Sequence[Tensor]) -> list[float]:
    """For each output; infinity alone where their number or shapes differ."""
    if [x.shape for x in before] != [x.shape for x in after]:
        return [float("inf")]
    return [_apart(a, b) for a, b in zip(before, after, strict=True)]


def _small(apart: Sequence[float]) -> bool:
    """Whether all are within TOLERANCE; NaN is not."""
    return all(x <= TOLERANCE for x in apart)


def _apart(before: Tensor, after: Tensor) -> float:
    """Largest difference over the largest finite value; NaN before has nothing to differ from."""
    a, b = before.double(), after.double()
    same = (a == b) | a.isnan()
    difference = torch.where(same, 0.0, (a - b).abs())
    return float(difference.max()) / _largest(a) if difference.numel() else 0.0


def _apart_in_any_order(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """The same over queries, each against the nearest of the other side."""
    scales = [_largest(x.double()) for x in before]
    mine, theirs = (
        torch.cat([x[0].double() / s for x, s in zip(side, scales, strict=True)], dim=-1) for side in (before, after)
    )
    distances = torch.cdist(mine, theirs, p=float("inf"))
    return float(torch.maximum(distances.amin(0).max(), distances.amin(1).max()))


def _largest(values: Tensor) -> float:
    """The largest finite absolute value, 1 where there is none above 0."""
    finite = values[values.isfinite()].abs()
    return float(finite.max()) or 1.0 if finite.numel() else 1.0
