"""Intervals: the quantile covers what it promises, bands partition, errors are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpusq.errors import UsageError
from gpusq.latency.interval import LEAST_IN_BAND, conformal_quantile, coverage, error_bands, half_widths
from gpusq.targets import Band, Fit

ERRORS = st.lists(st.floats(0, 5), min_size=1, max_size=200).map(np.array)


def fit_with(bands: tuple[Band, ...]) -> Fit:
    return Fit(
        t0_us=1, compute_efficiency=0.5, memory_efficiency=0.5, error_p90=0.3, bands=bands, source="written by hand"
    )


@given(ERRORS, st.floats(0.05, 0.95))
def test_the_quantile_is_one_of_the_errors_and_covers_its_share(errors: np.ndarray, level: float) -> None:
    quantile = conformal_quantile(errors, level)
    assert quantile in errors
    share = (errors <= quantile).mean()
    assert share >= level or quantile == errors.max()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(20, 60))
def test_a_new_error_of_the_same_kind_is_inside_nine_times_of_ten(seed: int, count: int) -> None:
    draws = np.abs(np.random.default_rng(seed).normal(size=(400, count + 1)))
    inside = [row[-1] <= conformal_quantile(row[:-1]) for row in draws]
    assert 0.83 <= np.mean(inside) <= 0.97


@given(ERRORS)
def test_more_is_asked_more_is_covered(errors: np.ndarray) -> None:
    quantiles = [conformal_quantile(errors, level) for level in (0.1, 0.5, 0.9, 0.99)]
    assert quantiles == sorted(quantiles)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 400), st.integers(1, 6), st.integers(0, 1000))
def test_bands_ascend_and_cover_their_own_rows(count: int, most: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    us, errors = random.lognormal(4, 2, count), random.normal(0, 0.1, count)
    bands = error_bands(us, errors, most)
    assert 1 <= len(bands) <= max(1, min(most, count // LEAST_IN_BAND))
    assert [b.up_to_us for b in bands] == sorted({b.up_to_us for b in bands})
    widths = half_widths(fit_with(bands), us)
    assert set(widths.tolist()) <= {b.ln_error for b in bands}
    # A band's quantile covers nine tenths of the band; rounding of its end and width moves single rows.
    assert coverage(errors, widths + 1e-4) >= 0.9 - 4 / count


def test_wider_where_errors_were_wider() -> None:
    us = np.linspace(1, 100, 200)
    errors = np.where(us < 50, 0.5, 0.05)
    widths = half_widths(fit_with(error_bands(us, errors, 2)), np.array([2.0, 90.0, 1e6]))
    assert widths.tolist() == [0.5, 0.05, 0.05]


def test_without_bands_one_width_holds_everywhere() -> None:
    assert half_widths(fit_with(()), np.array([1.0, 1e5])).tolist() == [0.3, 0.3]


@pytest.mark.parametrize(("errors", "level"), [([], 0.9), ([0.1], 0.0), ([0.1], 1.0)])
def test_no_errors_and_no_level_are_refused(errors: list[float], level: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        conformal_quantile(np.array(errors), level)


def test_bands_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="go up"):
        fit_with((Band(up_to_us=10, ln_error=0.1), Band(up_to_us=5, ln_error=0.1)))
