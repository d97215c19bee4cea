"""Rows that a fit does not see: which they are, what the fits make of them, and whether one beats what was there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FEWEST = 3
"""Fewer held-out rows than this cannot tell a fit from what was there: the parameters stay."""
MOST_FOLDS = 20


@dataclass(frozen=True)
class PathResult:
    """One fitted path (or "engine"): rows, and mean absolute errors as shares of 1.

    before: of the target calibrated from, on the held-out rows where held_out is known (so that the two compare), else
    on all. fitted: of the parameters chosen, on the rows of the fit. held_out: on rows that the fit did not see, None
    for fewer than FEWEST. interval: factor of the 90 % interval. kept_prior: no fit did better on rows that it did not
    see than the target it started from, or these were too few; its parameters stay.
    prior: where the chosen fit started, "" if none was. tried: held-out error of each fit, by its prior.
    """

    key: str
    rows: int
    before: float
    fitted: float
    held_out: float | None
    interval: float
    kept_prior: bool = False
    prior: str = ""
    tried: dict[str, float] = field(default_factory=dict)


Errors = Callable[[Any, Sequence[Any]], Floats]
Fitter = Callable[[Sequence[Any]], Any]


@dataclass(frozen=True)
class Split:
    """inside: rows of the fit. left, unseen: rows that a fit did not see, and the ln errors of `chosen` there.

    prior: the name of the chosen fit, "" where the start was kept. tried: name -> mean absolute error of each fit on
    `left`, empty where these rows are too few.
    """

    inside: list[Any]
    left: list[Any]
    unseen: Floats
    chosen: Any
    prior: str = ""
    tried: dict[str, float] = field(default_factory=dict)

    @property
    def kept_prior(self) -> bool:
        """Whether the parameters stay."""
        return not self.prior

    @property
    def told(self) -> float | None:
        """Mean absolute error on the rows not seen; None where they are too few to say."""
        return mape(self.unseen) if len(self.unseen) >= FEWEST else None

    def result(self, key: str, errors: Errors, start: Any, rows: Sequence[Any], error: float) -> PathResult:
        """As one line of a calibration; error: half-width of the interval in ln."""
        compared = rows if self.told is None else self.left
        before, own = mape(errors(start, compared)) or 0.0, mape(errors(self.chosen, self.inside)) or 0.0
        interval = math.exp(error)
        return PathResult(key, len(rows), before, own, self.told, interval, self.kept_prior, self.prior, self.tried)


def held_out_split(
    rows: Sequence[Any], holdout: float, fits: Mapping[str, Fitter], errors: Errors, start: Any
) -> Split:
    """Fit in each way, and the errors on rows not seen: those of the holdout, or each row in turn left out.

    fits: name -> what fits the rows it is given. The least mean absolute error on the same rows not seen wins; `start`
    stays where none is below its own there, or where these rows are fewer than FEWEST: a fit must earn its place. The
    choice has then looked at the held-out rows, so their error is a little too small.
    """
    inside, left = split_rows(rows, holdout)
    if not holdout:
        left = list(rows)
    own = errors(start, left) if left else np.zeros(0)
    if len(left) < FEWEST:
        return Split(inside, left, own, start)
    models = {name: fit(inside) for name, fit in fits.items()} if holdout else {}
    unseen = {
        name: errors(models[name], left) if holdout else _left_out_in_turn(rows, fit, errors)
        for name, fit in fits.items()
    }
    tried = {name: mape(found) or 0.0 for name, found in unseen.items()}
    best = min(tried, key=lambda name: tried[name])
    if tried[best] >= (mape(own) or 0.0):
        return Split(inside, left, own, start, "", tried)
    return Split(inside, left, unseen[best], models.get(best) or fits[best](inside), best, tried)


def split_rows(rows: Sequence[Any], holdout: float) -> tuple[list[Any], list[Any]]:
    """(rows of the fit, rows held out): a share `holdout` (0 to 1), spread evenly over the rows' order."""
    out = [math.floor((index + 1) * holdout) > math.floor(index * holdout) for index in range(len(rows))]
    parts: tuple[list[Any], list[Any]] = ([], [])
    for row, left in zip(rows, out, strict=True):
        parts[left].append(row)
    return parts


def _left_out_in_turn(rows: Sequence[Any], fit: Fitter, errors: Errors) -> Floats:
    """ln errors of each row under a fit without it (or without its part of MOST_FOLDS)."""
    folds = min(len(rows), MOST_FOLDS)
    found = np.zeros(len(rows))
    for fold in range(folds):
        inside = [row for index, row in enumerate(rows) if index % folds != fold]
        found[fold::folds] = errors(fit(inside), rows[fold::folds])
    return found


def mape(ln_errors: Floats) -> float | None:
    """Mean of |predicted / measured - 1|; None without rows."""
    return float(np.abs(np.exp(ln_errors) - 1).mean()) if len(ln_errors) else None
