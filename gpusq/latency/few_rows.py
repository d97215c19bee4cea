"""Width of a calibrated path's interval: rows too few for a quantile never make it narrower than it was."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpusq.latency.held_out import Split
from gpusq.latency.interval import LEAST_IN_BAND, conformal_quantile, error_bands
from gpusq.targets import Band, Fit

Floats = NDArray[np.float64]
ENOUGH = 9
"""From here on the conformal 90 % quantile is one of the held-out errors; with fewer it lies beyond the largest."""
LEAST_ERROR = 0.01


def half_width(unseen: Floats, fitted: Floats, shipped: float) -> float:
    """Half-width of the 90 % interval in ln, rounded up to 4 digits.

    unseen, fitted: ln errors of the chosen parameters on rows that the fit did not see and on its own. shipped: of the
    target calibrated from. With fewer than ENOUGH unseen the largest of all; else the larger quantile of the two.
    """
    if len(unseen) < ENOUGH:
        return _rounded_up(max([shipped, *np.abs([*unseen, *fitted]).tolist()]))
    own = conformal_quantile(fitted) if len(fitted) else 0.0
    return _rounded_up(max(conformal_quantile(unseen), own, LEAST_ERROR))


def widest(error: float, bands: Sequence[Band]) -> float:
    """The largest half-width of a path."""
    return max([error, *(band.ln_error for band in bands)])


def widths(split: Split, fitted: Floats, start: Fit) -> tuple[float, tuple[Band, ...]]:
    """(error_p90, bands) of the chosen parameters of a path of GemmPoints; fitted: their ln errors on its inside rows.

    Where few rows changed the parameters, one width: predictions moved, so the start's bands no longer fit the sizes.
    """
    if len(split.unseen) < ENOUGH:
        if split.kept_prior:
            seen = np.concatenate([split.unseen, fitted])
            return half_width(split.unseen, fitted, start.error_p90), kept_bands(start.bands, seen)
        return half_width(split.unseen, fitted, widest(start.error_p90, start.bands)), ()
    unseen_us, fitted_us = (
        np.array([row.us for row in rows]) * np.exp(off)
        for rows, off in ((split.left, split.unseen), (split.inside, fitted))
    )
    return half_width(split.unseen, fitted, start.error_p90), bands_of(unseen_us, split.unseen, fitted_us, fitted)


def kept_bands(bands: Sequence[Band], errors: Floats) -> tuple[Band, ...]:
    """The bands of parameters that stay, none narrower than the largest of these ln errors."""
    floor = _rounded_up(max([0.0, *np.abs(errors).tolist()]))
    return tuple(band.model_copy(update={"ln_error": max(band.ln_error, floor)}) for band in bands)


def bands_of(unseen_us: Floats, unseen: Floats, fitted_us: Floats, fitted: Floats) -> tuple[Band, ...]:
    """Bands by predicted microseconds from rows not seen, none below the quantile of the fit's own rows in it.

    Empty for fewer than 2 * LEAST_IN_BAND rows not seen: one width then holds for all.
    """
    if len(unseen) < 2 * LEAST_IN_BAND:
        return ()
    bands = error_bands(unseen_us, unseen)
    ends = np.array([band.up_to_us for band in bands])
    index = np.minimum(np.searchsorted(ends, fitted_us), len(ends) - 1)
    return tuple(
        band.model_copy(update={"ln_error": max(band.ln_error, _quantile(fitted[index == at]))})
        for at, band in enumerate(bands)
    )


def _quantile(errors: Floats) -> float:
    return _rounded_up(conformal_quantile(errors)) if len(errors) else 0.0


def _rounded_up(value: float) -> float:
    return math.ceil(value * 1e4 - 1e-6) / 1e4
