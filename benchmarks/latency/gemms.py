"""Held-out errors of the GEMM model: leave one workload out, transfer between GPUs, few anchors, interval coverage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpusq.latency.fit import fit_gemms, predicted_us
from gpusq.latency.interval import coverage, error_bands, half_widths
from gpusq.targets import Fit
from latency.data import Floats, Table

MOST_BANDS = 4
TWIN = {"fp16/2:4": "bf16/2:4", "fp8/dense": "int8/dense", "fp8/2:4": "int8/2:4"}


@dataclass(frozen=True)
class PathStudy:
    """One path of one board. ln: ln(predicted / measured) of rows that the fit did not see; errors as shares of 1."""

    gpu: str
    path: str
    fit: Fit
    naive_mape: float
    mape: float
    held_out_ln: Floats
    held_out_mape: float
    by_workload: dict[str, float]
    coverage: float
    median_width: float


def mape(ln_errors: Floats) -> float:
    """Mean absolute percentage error, as a share of 1, from ln(predicted / measured)."""
    return float(np.abs(np.expm1(ln_errors)).mean())


def ln_errors(table: Table, fit: Fit) -> Floats:
    """ln(predicted / measured) of every row."""
    found: Floats = np.log(predicted_us(table.measured.gemms, table.speed, fit) / table.measured.us)
    return found


def naive_ln(table: Table) -> Floats:
    """The same of the peak roofline: the larger of compute and traffic at datasheet rates, no launch."""
    gemms, speed = table.measured.gemms, table.speed
    ideal = Fit(t0_us=0, compute_efficiency=1, memory_efficiency=1, sharpness=64, error_p90=1, source="data sheet")
    flat = type(speed)(speed.dtype, speed.sparsity, speed.peak_tops, speed.bandwidth_gbs, None)
    found: Floats = np.log(predicted_us(gemms, flat, ideal) / table.measured.us)
    return found


def leave_one_out(table: Table) -> Floats:
    """ln errors of every row, each by a fit without that row's workload."""
    found = np.zeros(len(table.measured.us))
    for workload in table.workloads:
        out = table.workload == workload
        rest = table.where(~out)
        found[out] = ln_errors(table.where(out), fit_gemms(rest.measured, rest.speed))
    return found


def with_bands(table: Table) -> Fit:
    """The fit to all rows, its interval from leaving out one workload at a time."""
    fit = fit_gemms(table.measured, table.speed)
    held = leave_one_out(table)
    predicted = table.measured.us * np.exp(held)
    bands = error_bands(predicted, held, MOST_BANDS)
    whole = error_bands(predicted, held, 1)[0].ln_error
    return fit.model_copy(update={"bands": bands, "error_p90": whole})


def study(table: Table) -> PathStudy:
    """Everything that the report says of a path. Coverage: the left-out workload touched neither fit nor interval."""
    held = leave_one_out(table)
    widths = np.zeros_like(held)
    for workload in table.workloads:
        out = table.workload == workload
        inner = with_bands(table.where(~out))
        widths[out] = half_widths(inner, table.measured.us[out] * np.exp(held[out]))
    fit = with_bands(table)
    by_workload = {w: mape(held[table.workload == w]) for w in table.workloads}
    seen = ln_errors(table, fit)
    inside, median = coverage(held, widths), float(np.median(widths))
    naive = mape(naive_ln(table))
    return PathStudy(table.gpu, table.path, fit, naive, mape(seen), held, mape(held), by_workload, inside, median)


def transfer_ln(source: str, target: str, tables: dict[tuple[str, str], Table]) -> dict[str, Floats]:
    """ln errors by path of `target`'s rows with parameters fitted on `source` alone, datasheet facts of `target`."""
    found = {}
    for (gpu, path), table in tables.items():
        if gpu == target:
            twin = tables.get((source, path)) or tables[source, TWIN[path]]
            found[path] = ln_errors(table, fit_gemms(twin.measured, twin.speed))
    return found


def few_shot(
    table: Table, start: Fit | None, anchors: tuple[int, ...] = (3, 5, 10, 20), draws: int = 20
) -> dict[int, float]:
    """Held-out MAPE by number of anchors drawn at random (seeded), the prior at `start`; mean over the draws."""
    random, rows = np.random.default_rng(0), len(table.measured.us)
    errors: dict[int, float] = {}
    for count in anchors:
        runs = []
        for _ in range(draws):
            chosen = np.zeros(rows, dtype=bool)
            chosen[random.choice(rows, count, replace=False)] = True
            fit = fit_gemms(table.where(chosen).measured, table.speed, start)
            runs.append(mape(ln_errors(table.where(~chosen), fit)))
        errors[count] = float(np.mean(runs))
    return errors
