"""Intervals from held-out residuals: conformal quantiles of |ln(predicted / measured)|, by predicted time."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gpusq.errors import UsageError
from gpusq.targets import Band, Fit

Floats = NDArray[np.float64]
LEVEL = 0.9
# Fewer residuals than this and a band's quantile is mostly luck.
LEAST_IN_BAND = 30


def conformal_quantile(errors: Floats, level: float = LEVEL) -> float:
    """The value that the next error stays under with probability `level`, if it is drawn as these were.

    errors: absolute, [n], n at least 1. The ceil((n + 1) * level)-th smallest; the largest where n is too small for
    that. Raises UsageError for no errors or a level outside 0 to 1. Source: Vovk et al., split conformal prediction.
    """
    if len(errors) == 0 or not 0 < level < 1:
        raise UsageError("a quantile needs errors and a level between 0 and 1", got=f"{len(errors)} at {level}")
    rank = min(math.ceil((len(errors) + 1) * level - 1e-9), len(errors))
    return float(np.sort(np.abs(errors))[rank - 1])


def error_bands(predicted_us: Floats, ln_errors: Floats, most: int = 4, level: float = LEVEL) -> tuple[Band, ...]:
    """Half-widths by predicted time: up to `most` bands of equal count, each with LEAST_IN_BAND residuals or more.

    predicted_us, ln_errors: [n], held out. The last band's end is its largest prediction; it holds beyond it too.
    """
    count = max(1, min(most, len(predicted_us) // LEAST_IN_BAND))
    order = np.argsort(predicted_us, kind="stable")
    bands: list[Band] = []
    for part in np.array_split(order, count):
        end = round(float(predicted_us[part[-1]]), 3)
        if bands and end <= bands[-1].up_to_us:  # equal predictions on both sides of a cut
            continue
        width = round(max(conformal_quantile(ln_errors[part], level), 1e-4), 4)
        bands.append(Band(up_to_us=end, ln_error=width))
    return tuple(bands)


def half_widths(fit: Fit, us: Floats) -> Floats:
    """Half-width of the 90 % interval in ln at predicted times [g] in microseconds."""
    if not fit.bands:
        return np.full_like(us, fit.error_p90)
    ends = np.array([band.up_to_us for band in fit.bands])
    widths = np.array([band.ln_error for band in fit.bands])
    chosen: Floats = widths[np.minimum(np.searchsorted(ends, us), len(ends) - 1)]
    return chosen


def coverage(ln_errors: Floats, widths: Floats) -> float:
    """Share (0 to 1) of errors within their half-widths."""
    return float((np.abs(ln_errors) <= widths).mean())
