"""Rows that a fit does not see: which they are, what the fit makes of them, and whether it beats what was there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpusq.latency.interval import conformal_quantile

Floats = NDArray[np.float64]
FEWEST = 3
"""Fewer rows than this say nothing about their own error: the prior's is kept."""
MOST_FOLDS = 20
LEAST_ERROR = 0.01


@dataclass(frozen=True)
class PathResult:
    """One fitted path (or "engine"): rows, and mean absolute errors as shares of 1.

    before: of the target calibrated from. fitted: on the rows of the fit. held_out: on rows that the fit did not see,
    None for too few. interval: factor of the 90 % interval. kept_prior: the fit did worse on rows that it did not see
    than the target it started from, so the target's own parameters stay.
    """

    key: str
    rows: int
    before: float
    fitted: float
    held_out: float | None
    interval: float
    kept_prior: bool = False


Errors = Callable[[Any, Sequence[Any]], Floats]


@dataclass(frozen=True)
class Split:
    """inside: rows of the fit. left, unseen: rows that a fit did not see, and its ln errors there."""

    inside: list[Any]
    left: list[Any]
    unseen: Floats
    chosen: Any
    kept_prior: bool

    def result(self, key: str, errors: Errors, start: Any, rows: Sequence[Any], error: float) -> PathResult:
        before, own = mape(errors(start, rows)) or 0.0, mape(errors(self.chosen, self.inside)) or 0.0
        return PathResult(key, len(rows), before, own, mape(self.unseen), math.exp(error), self.kept_prior)


def held_out_split(
    rows: Sequence[Any], holdout: float, fit: Callable[[Sequence[Any]], Any], errors: Errors, start: Any
) -> Split:
    """Fit, and the errors on rows not seen: those of the holdout, or each row in turn left out.

    Where these are larger than those of `start` on the same rows, start is kept: a fit must earn its place. The choice
    has then looked at the held-out rows, so their error is a little too small.
    """
    inside, left = split_rows(rows, holdout)
    chosen = fit(inside)
    if holdout:
        unseen = errors(chosen, left) if left else np.zeros(0)
    else:
        unseen = _left_out_in_turn(rows, fit, errors)
        left = list(rows) if len(unseen) else []
    own = errors(start, left) if left else np.zeros(0)
    if len(unseen) >= FEWEST and np.abs(unseen).mean() > np.abs(own).mean():
        return Split(inside, left, own, start, kept_prior=True)
    return Split(inside, left, unseen, chosen, kept_prior=False)


def split_rows(rows: Sequence[Any], holdout: float) -> tuple[list[Any], list[Any]]:
    """(rows of the fit, rows held out): a share `holdout` (0 to 1), spread evenly over the rows' order."""
    out = [math.floor((index + 1) * holdout) > math.floor(index * holdout) for index in range(len(rows))]
    parts: tuple[list[Any], list[Any]] = ([], [])
    for row, left in zip(rows, out, strict=True):
        parts[left].append(row)
    return parts


def _left_out_in_turn(rows: Sequence[Any], fit: Callable[[Sequence[Any]], Any], errors: Errors) -> Floats:
    """ln errors of each row under a fit without it (or without its part of MOST_FOLDS); none for too few rows."""
    folds = min(len(rows), MOST_FOLDS)
    found = np.zeros(len(rows) if len(rows) >= FEWEST else 0)
    for fold in range(folds if len(found) else 0):
        inside = [row for index, row in enumerate(rows) if index % folds != fold]
        found[fold::folds] = errors(fit(inside), rows[fold::folds])
    return found


def half_width(ln_errors: Floats, prior: float) -> float:
    """Of the 90 % interval in ln; the prior's own where too few rows were held out to know better."""
    if len(ln_errors) < FEWEST:
        return float(max([prior, *np.abs(ln_errors).tolist()]))
    return max(conformal_quantile(np.abs(ln_errors)), LEAST_ERROR)


def mape(ln_errors: Floats) -> float | None:
    """Mean of |predicted / measured - 1|; None without rows."""
    return float(np.abs(np.exp(ln_errors) - 1).mean()) if len(ln_errors) else None
