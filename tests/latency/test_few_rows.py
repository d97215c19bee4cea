"""The interval of a calibrated path: few rows never narrow it, many may, and never below the fit's own rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpusq.latency.calibrate import calibrated
from gpusq.latency.few_rows import ENOUGH, bands_of, half_width, widest
from gpusq.latency.fit import predicted_us
from gpusq.latency.gemm import speed_of
from gpusq.latency.interval import LEAST_IN_BAND, conformal_quantile, half_widths
from gpusq.latency.points import EncoderPoint, GemmPoint, Points, measured_of, read_points
from gpusq.targets import Fit, Target, load_target

ROWS = Path(__file__).parent / "a100_rows.csv"
FIXTURE = read_points(ROWS, load_target("a100-80gb-pcie"))
ERRORS = st.lists(st.floats(-3, 3), max_size=40).map(np.array)


def us_of(target: Target, rows: list[GemmPoint], fit: Fit) -> np.ndarray:
    """Predicted microseconds of rows of one path."""
    return predicted_us(measured_of(rows).gemms, speed_of(target, rows[0].dtype, rows[0].sparsity), fit)


@given(ERRORS, ERRORS, st.floats(0.01, 1))
def test_the_width_covers_what_was_seen(unseen: np.ndarray, fitted: np.ndarray, shipped: float) -> None:
    width = half_width(unseen, fitted, shipped)
    if len(unseen) < ENOUGH:
        assert width >= max([shipped, *np.abs(unseen), *np.abs(fitted)]) - 1e-9
        return
    for seen in (unseen, fitted):
        if len(seen):
            assert width >= conformal_quantile(seen) - 1e-9
            assert (np.abs(seen) <= width + 1e-9).mean() >= 0.9
    assert width <= max(0.01, *np.abs([*unseen, *fitted])) + 2e-4  # the start no longer widens it


@given(st.integers(2 * LEAST_IN_BAND, 150), st.integers(0, 60), st.integers(0, 10_000))
def test_no_band_is_below_the_quantile_of_the_rows_fitted_in_it(left: int, inside: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    us, own = rng.uniform(1, 1000, left), rng.uniform(1, 1200, inside)
    off, fitted = rng.normal(0, 0.1, left), rng.normal(0, 0.3, inside)
    bands = bands_of(us, off, own, fitted)
    ends = np.array([band.up_to_us for band in bands])
    index = np.minimum(np.searchsorted(ends, own), len(ends) - 1)
    for at, band in enumerate(bands):
        if (index == at).any():
            assert band.ln_error >= conformal_quantile(fitted[index == at]) - 1e-9


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from(["a100-80gb-pcie", "h100-pcie", "agx-orin"]),
    st.sampled_from(["fp16/dense", "bf16/dense", "int8/dense", "int8/2:4"]),
    st.integers(1, 14),
    st.sampled_from([0.0, 0.5]),
    st.floats(0.3, 4),
    st.integers(0, 10_000),
)
def test_no_path_of_few_rows_is_narrower_than_before(
    name: str, key: str, count: int, holdout: float, factor: float, seed: int
) -> None:
    """Real rows, all slower by a factor: any size's interval is as wide as the start's and covers what was seen."""
    target, every = load_target(name), FIXTURE.by_path().get(key) or FIXTURE.by_path()["fp16/dense"]
    chosen = np.random.default_rng(seed).choice(len(every), min(count, len(every)), replace=False)
    rows = [replace(every[i], us=every[i].us * factor) for i in sorted(chosen)]
    left = int(np.floor(len(rows) * holdout + 1e-9)) if holdout else len(rows)
    key = f"{rows[0].dtype}/{rows[0].sparsity}"
    if key not in target.peaks_tops or left < 1:
        return
    result = calibrated(name, Points(tuple(rows)), holdout=holdout)
    (path,), start, after = result.paths, target.fit_of(*key.split("/")), result.file.fits[key]
    if path.held_out is not None:
        assert path.held_out <= path.before
    if left >= ENOUGH:
        return
    assert after.error_p90 >= start.error_p90
    now = half_widths(after, us_of(target, every, after))
    assert (now >= half_widths(start, us_of(target, every, start)) - 1e-9).all()
    if not holdout:
        off = np.abs(np.log(us_of(target, rows, after) / [row.us for row in rows]))
        assert (off <= half_widths(after, us_of(target, rows, after)) + 1e-4).all()
    if not path.kept_prior:
        assert after.error_p90 >= widest(start.error_p90, start.bands)


def test_one_row_far_off_lies_within_the_new_interval() -> None:
    target, row = load_target("a100"), GemmPoint("fp16", "dense", 512, 512, 512, 1.0)
    us = float(us_of(target, [row], target.fit_of("fp16", "dense"))[0])
    after = calibrated("a100", Points((replace(row, us=1.78 * us),))).file.fits["fp16/dense"]
    assert half_widths(after, np.array([us]))[0] >= np.log(1.78) - 1e-9


def test_a_prior_kept_after_three_rows_keeps_its_width() -> None:
    target = load_target("a100")
    rows = FIXTURE.by_path()["fp16/dense"][:3]
    start = target.fit_of("fp16", "dense")
    exact = tuple(replace(r, us=float(t)) for r, t in zip(rows, us_of(target, rows, start), strict=True))
    result = calibrated("a100", Points(exact))
    assert result.paths[0].kept_prior
    assert (result.file.fits["fp16/dense"].error_p90, result.file.fits["fp16/dense"].bands) == (
        start.error_p90,
        start.bands,
    )


@pytest.mark.parametrize("count", [1, 4])
def test_few_whole_encoders_do_not_narrow_the_engine(count: int) -> None:
    engine = load_target("h200").engine
    rows = tuple(EncoderPoint("fp16", "dense", (2, 768, 12, 3072, 197, 4**i), 100.0 * 3**i) for i in range(count))
    result = calibrated("h200", Points((), rows))
    assert result.file.engine.error_p90 >= engine.error_p90
    assert result.paths[0].interval == pytest.approx(np.exp(result.file.engine.error_p90))
