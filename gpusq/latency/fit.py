"""Fit a path's parameters to measured GEMMs: damped Gauss-Newton over their logarithms, in numpy alone.

A prior pulls each parameter to a start value (the shipped fit, or FIRST), so that ten measurements are enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpusq.errors import UsageError
from gpusq.latency.gauss_newton import Prior, gauss_newton
from gpusq.latency.gemm import Gemms, Speed, gemm_us
from gpusq.latency.interval import conformal_quantile
from gpusq.targets import Fit

Floats = NDArray[np.float64]


class Parameter(NamedTuple):
    """A field of Fit: its range, and the standard deviation of its logarithm in the prior.

    least, most: bounds of what is fitted; `sharpness` is fitted as its excess over 1.
    """

    name: str
    first: float
    least: float
    most: float
    spread: float


PARAMETERS = (
    Parameter("t0_us", 5.0, 0.5, 30.0, 0.5),
    Parameter("compute_efficiency", 0.8, 0.1, 1.0, 0.1),
    Parameter("memory_efficiency", 0.85, 0.1, 1.0, 0.15),
    Parameter("cache_efficiency", 2.5, 0.1, 30.0, 0.5),
    Parameter("k_latency_us", 2.0, 1e-3, 20.0, 0.7),
    Parameter("sharpness", 1.5, 0.05, 30.0, 0.7),
    Parameter("slowdown", 0.02, 1e-3, 0.3, 0.8),
    Parameter("picojoules", 1.0, 0.05, 5.0, 0.3),
)
# Energy of one (dense-equivalent) operation on a 7 nm part, where no fit is at hand: the H100 PCIe's 350 W over its
# best rates in the same table (430 and 960 TOPS dense at 16 and 8 bits, 700 and 1470 at 2:4), brought from 4N to 7 nm.
FIRST_PICOJOULES = {("16", "dense"): 1.1, ("16", "2:4"): 0.7, ("8", "dense"): 0.55, ("8", "2:4"): 0.35}
LOWEST = np.log([p.least for p in PARAMETERS])
HIGHEST = np.log([p.most for p in PARAMETERS])
SPREAD = np.array([p.spread for p in PARAMETERS])


@dataclass(frozen=True)
class Measured:
    """Isolated GEMM calls and their times in microseconds [g], launch included."""

    gemms: Gemms
    us: Floats

    def where(self, mask: NDArray[np.bool_]) -> Measured:
        """The rows of the mask."""
        return Measured(self.gemms.where(mask), self.us[mask])


def fit_gemms(measured: Measured, speed: Speed, start: Fit | None = None, fit_t0: bool = True) -> Fit:
    """The parameters of one path from measured calls; ten are enough, some milliseconds of work.

    Fitted, each as a logarithm: t0_us (microseconds), compute_efficiency, memory_efficiency and cache_efficiency
    (shares of the data sheet), k_latency_us (microseconds for 1000 steps), sharpness, slowdown, picojoules (only where
    the speed has a power). start: the prior's centre and the first guess, a shipped fit of the same or another device;
    None: textbook values. The prior's width is `Parameter.spread`, in ln; it weighs like a few rows, so many rows
    overrule it. fit_t0: False keeps start's t0_us (times taken inside one graph have none of their own).
    Loss: soft-L1 of ln(predicted / measured) beyond 0.05. Deterministic. error_p90 is the conformal quantile of the
    residuals of these very rows, so too small; set it from held-out rows (`interval.error_bands`).
    Raises UsageError for no rows, or a time or size that is not positive and finite.
    """
    _check(measured)
    centre = _logs(start, first_guess(speed)) if start else first_guess(speed)
    fixed = (set() if fit_t0 else {"t0_us"}) | ({"picojoules"} if not speed.power_w else set())
    free = np.array([p.name not in fixed for p in PARAMETERS])
    prior = Prior(centre, SPREAD, LOWEST, HIGHEST, free)

    def residuals(logs: Floats) -> Floats:
        return np.log(predicted_us(measured.gemms, speed, _unchecked(logs)) / measured.us)

    found = gauss_newton(residuals, prior)
    error = max(conformal_quantile(residuals(found)), 1e-3)
    return _fit(found, error, f"fit to {len(measured.us)} measured GEMMs")


def first_guess(speed: Speed) -> Floats:
    """Logarithms of the prior's centre where no fit is at hand."""
    guess = np.log([p.first for p in PARAMETERS])
    width = "16" if speed.dtype in ("fp16", "bf16") else "8"
    guess[-1] = np.log(FIRST_PICOJOULES[width, speed.sparsity])
    return guess


def predicted_us(gemms: Gemms, speed: Speed, fit: Fit) -> Floats:
    """Isolated calls in microseconds [g]: t0_us included."""
    total: Floats = fit.t0_us + gemm_us(gemms, speed, fit).total
    return total


def _check(measured: Measured) -> None:
    columns = (measured.us, measured.gemms.m, measured.gemms.n, measured.gemms.k)
    if len(measured.us) == 0 or not all(bool(np.all(np.isfinite(c) & (c > 0))) for c in columns):
        raise UsageError(
            "a fit takes at least one GEMM with a positive size and time",
            got=f"{len(measured.us)} rows",
            do="correct or leave out the rows that are zero, negative or not numbers",
        )


def _logs(fit: Fit, guess: Floats) -> Floats:
    """Logarithms of a fit's parameters, within their ranges; the guess where it has none."""
    values = [getattr(fit, p.name) for p in PARAMETERS]
    excess = [v if v is None else v - (p.name == "sharpness") for v, p in zip(values, PARAMETERS, strict=True)]
    logs = [g if v is None else np.log(max(v, 1e-9)) for v, g in zip(excess, guess.tolist(), strict=True)]
    clipped: Floats = np.clip(logs, LOWEST, HIGHEST)
    return clipped


def _values(logs: Floats) -> dict[str, float]:
    values: dict[str, float] = dict(zip([p.name for p in PARAMETERS], np.exp(logs).tolist(), strict=True))
    return values | {"sharpness": values["sharpness"] + 1}


def _fit(logs: Floats, error: float, source: str) -> Fit:
    rounded = {name: round(value, 5) for name, value in _values(logs).items()}
    return Fit(**rounded, error_p90=round(error, 4), source=source)  # type: ignore[arg-type]


def _unchecked(logs: Floats) -> Fit:
    """As _fit, without validation and rounding: a difference quotient needs the digits, the inner loop the time."""
    return Fit.model_construct(**_values(logs))  # type: ignore[arg-type]
