"""The fit: recovers what made the data, few anchors beat none, one wild row does not bend it, refusals."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpusq.errors import UsageError
from gpusq.latency.fit import Measured, fit_gemms, predicted_us
from gpusq.latency.gauss_newton import Prior, gauss_newton
from gpusq.latency.gemm import Gemms, Speed, shaped, speed_of
from gpusq.targets import Fit, load_target

A100 = load_target("a100-80gb-pcie")
SPEED = speed_of(A100, "bf16", "dense")

# Recorded by bcacdwk/vllmbench (Apache-2.0): best of cuBLASLt, CUDA 12.9, A100 80GB PCIe.
TABLE = Path(__file__).parents[2] / "benchmarks" / "data" / "gemm_latency.csv"


def recorded() -> Measured:
    with TABLE.open(newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if (r["gpu"], r["dtype"], r["sparsity"]) == ("A100", "BF16", "dense")]
    m, n, k, us = (np.array([float(r[c]) for r in rows]) for c in ("m", "n", "k", "latency_us"))
    return Measured(shaped(m, n, k, 2.0), us)


def shapes(random: np.random.Generator, count: int) -> Gemms:
    m, n, k = (2.0 ** random.integers(6, 14, count) for _ in range(3))
    return shaped(m, n, k, 2.0)


def mape(fit: Fit, measured: Measured, speed: Speed = SPEED) -> float:
    return float(np.abs(predicted_us(measured.gemms, speed, fit) / measured.us - 1).mean())


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_a_fit_finds_the_parameters_that_made_the_times(seed: int) -> None:
    random = np.random.default_rng(seed)
    true = A100.fit["bf16/dense"].model_copy(update={"t0_us": 8.0, "memory_efficiency": 0.6})
    gemms = shapes(random, 150)
    measured = Measured(gemms, predicted_us(gemms, SPEED, true) * random.lognormal(0, 0.02, 150))
    got = fit_gemms(measured, SPEED)
    assert got.t0_us == pytest.approx(8.0, rel=0.1)
    other = shapes(random, 100)
    assert mape(got, Measured(other, predicted_us(other, SPEED, true))) < 0.03


@pytest.mark.parametrize("seed", range(3))
def test_ten_anchors_with_another_gpus_parameters_beat_none(seed: int) -> None:
    start, measured = load_target("h100-pcie").fit["bf16/dense"], recorded()
    anchor = np.zeros(len(measured.us), dtype=bool)
    anchor[np.random.default_rng(seed).choice(len(anchor), 10, replace=False)] = True
    rest = measured.where(~anchor)
    assert mape(fit_gemms(measured.where(anchor), SPEED, start), rest) < 0.75 * mape(start, rest)


def test_no_data_to_speak_of_leaves_the_prior_where_it_was() -> None:
    start = A100.fit["bf16/dense"]
    gemms = shaped(512, 512, 512, 2.0)
    got = fit_gemms(Measured(gemms, predicted_us(gemms, SPEED, start)), SPEED, start)
    for name in ("t0_us", "compute_efficiency", "memory_efficiency", "cache_efficiency", "sharpness"):
        assert getattr(got, name) == pytest.approx(getattr(start, name), rel=0.02)


def test_a_fixed_launch_stays() -> None:
    random = np.random.default_rng(0)
    gemms = shapes(random, 40)
    start = A100.fit["bf16/dense"]
    measured = Measured(gemms, predicted_us(gemms, SPEED, start) + 20.0)
    assert fit_gemms(measured, SPEED, start, fit_t0=False).t0_us == pytest.approx(start.t0_us, abs=1e-4)
    assert fit_gemms(measured, SPEED, start).t0_us > start.t0_us + 5


def test_one_wild_row_does_not_bend_the_fit() -> None:
    gemms = shapes(np.random.default_rng(1), 60)
    us = predicted_us(gemms, SPEED, A100.fit["bf16/dense"])
    wild = us.copy()
    wild[7] *= 5
    clean, bent = (fit_gemms(Measured(gemms, times), SPEED) for times in (us, wild))
    assert mape(bent, Measured(gemms, us)) < mape(clean, Measured(gemms, us)) + 0.02


def test_the_same_rows_give_the_same_fit() -> None:
    measured = recorded()
    assert fit_gemms(measured, SPEED) == fit_gemms(measured, SPEED)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_times_and_sizes_that_are_none_are_refused(bad: float) -> None:
    with pytest.raises(UsageError, match="positive size and time"):
        fit_gemms(Measured(shaped(1, 1, 1, 2.0), np.array([bad])), SPEED)
    with pytest.raises(UsageError, match="positive size and time"):
        fit_gemms(Measured(shaped(bad, 1, 1, 2.0), np.array([1.0])), SPEED)


def test_no_rows_are_refused() -> None:
    empty = np.array([])
    with pytest.raises(UsageError, match="0 rows"):
        fit_gemms(Measured(shaped(empty, empty, empty, 2.0), empty), SPEED)


@settings(max_examples=20, deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3))
def test_least_squares_finds_a_minimum_and_keeps_bounds(first: float, second: float) -> None:
    centre, ones = np.zeros(2), np.ones(2)
    prior = Prior(centre, 100 * ones, -2 * ones, 2 * ones, np.array([True, True]))
    found = gauss_newton(lambda x: np.repeat(x - np.array([first, second]), 20), prior)
    assert np.abs(found - np.clip([first, second], -2, 2)).max() < 0.01
    held = gauss_newton(lambda x: x - np.array([first, second]), Prior(centre, ones, -2 * ones, 2 * ones, ones < 0))
    assert held.tolist() == [0.0, 0.0]
