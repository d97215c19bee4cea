"""Robust least squares over logarithms with a prior: damped Gauss-Newton with difference quotients, numpy alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Residuals = Callable[[Floats], Floats]

# One standard deviation of the prior costs as much as one row that is this far off, as ln: about the noise of a row.
PRIOR_WEIGHT = 0.05
# Residuals beyond this (ln) count linearly, so that a badly chosen library kernel does not bend the fit.
ROBUST = 0.05
STEP = 1e-3
LARGEST_MOVE = 1.0
LEAST_GAIN = 1e-8


@dataclass(frozen=True)
class Prior:
    """Where the parameters [p] are looked for, all as logarithms; free: False keeps a parameter at its centre."""

    centre: Floats
    spread: Floats
    lowest: Floats
    highest: Floats
    free: NDArray[np.bool_]


def gauss_newton(residuals: Residuals, prior: Prior, steps: int = 60) -> Floats:
    """The parameters [p] of least cost: soft-L1 of the residuals [n] and the prior's squares. Deterministic.

    A step that does not help is damped until it does (Levenberg); where none helps, the search ends.
    """
    x, damping = np.clip(prior.centre, prior.lowest, prior.highest), 1e-2
    found = residuals(x)
    cost = _cost(found, x, prior)
    for _ in range(steps):
        matrix, gradient = _normal_equations(residuals, x, found, prior)
        for _ in range(10):
            trial = _moved(x, matrix, gradient, damping, prior)
            trial_found = residuals(trial)
            trial_cost = _cost(trial_found, trial, prior)
            if trial_cost < cost:
                break
            damping *= 5
        else:
            return x
        gain = cost - trial_cost
        x, found, cost, damping = trial, trial_found, trial_cost, max(damping / 5, 1e-7)
        if gain < LEAST_GAIN * cost:
            return x
    return x


def _moved(x: Floats, matrix: Floats, gradient: Floats, damping: float, prior: Prior) -> Floats:
    step, free = np.zeros_like(x), prior.free
    damped = matrix + damping * np.diag(np.diag(matrix))
    step[free] = np.linalg.solve(damped[np.ix_(free, free)], -gradient[free])
    moved: Floats = np.clip(x + np.clip(step, -LARGEST_MOVE, LARGEST_MOVE), prior.lowest, prior.highest)
    return moved


def _cost(residuals: Floats, x: Floats, prior: Prior) -> float:
    robust = 2 * ROBUST**2 * (np.sqrt(1 + (residuals / ROBUST) ** 2) - 1).sum()
    return float(robust + PRIOR_WEIGHT**2 * (((x - prior.centre) / prior.spread) ** 2).sum())


def _normal_equations(residuals: Residuals, x: Floats, found: Floats, prior: Prior) -> tuple[Floats, Floats]:
    """(matrix [p, p], gradient [p]) of the reweighted least squares around x, the prior's share included."""
    slopes = np.zeros((len(found), len(x)))
    for index in np.flatnonzero(prior.free):
        moved = x.copy()
        moved[index] += STEP
        slopes[:, index] = (residuals(moved) - found) / STEP
    weights = 1 / np.sqrt(1 + (found / ROBUST) ** 2)
    pull = PRIOR_WEIGHT**2 / prior.spread**2
    return (slopes.T * weights) @ slopes + np.diag(pull), (slopes.T * weights) @ found + pull * (x - prior.centre)
