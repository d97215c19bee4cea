"""The operator model: order and bounds by property, physics by direction, recorded calls, refusals."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpusq.errors import UsageError
from gpusq.latency import predict_gemm
from gpusq.latency.gemm import BYTES, gemm_us, missing, norm, shaped, speed_of, weight_bytes
from gpusq.targets import load_target, target_names

SIZES = st.integers(1, 6000)
GPU_PATHS = [(d, s) for d in ("fp16", "bf16", "int8") for s in ("dense", "2:4")]
ANY = st.sampled_from([(t, *p) for t in ("a100-80gb-pcie", "h100-pcie", "h200", "agx-orin@30W") for p in GPU_PATHS])


def total_us(target: str, dtype: str, sparsity: str, m: float, n: float, k: float, competing: float = 0.0) -> float:
    device = load_target(target)
    speed, fit = speed_of(device, dtype, sparsity), device.fit_of(dtype, sparsity)
    return float(gemm_us(shaped(m, n, k, 2.0), speed, fit, competing).total[0])


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, SIZES, ANY, st.integers(1, 999))
def test_more_work_never_takes_less(m: int, n: int, k: int, path: tuple[str, str, str], more: int) -> None:
    least = total_us(*path, m, n, k) * (1 - 1e-9)
    assert total_us(*path, m + more, n, k) >= least
    assert total_us(*path, m, n + more, k) >= least
    assert total_us(*path, m, n, k + more) >= least


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, SIZES, ANY)
def test_no_gemm_beats_its_peak(m: int, n: int, k: int, path: tuple[str, str, str]) -> None:
    name, dtype, sparsity = path
    peak = load_target(name).peak(dtype, sparsity) * 1e6
    assert total_us(*path, m, n, k) >= 2.0 * m * n * k / peak * (1 - 1e-9)


@settings(max_examples=40, deadline=None)
@given(SIZES, SIZES, SIZES, ANY, st.floats(0, 1e10))
def test_a_cold_cache_never_helps(m: int, n: int, k: int, path: tuple[str, str, str], bytes_between: float) -> None:
    # A little slack: where rereads dominate, moving a byte from the cache's term to the DRAM's may even out.
    assert total_us(*path, m, n, k, bytes_between) >= total_us(*path, m, n, k) * 0.95


def test_a_cache_keeps_what_fits() -> None:
    speed = speed_of(load_target("a100"), "fp16", "dense")
    share = missing(np.array([1e3, 0.1 * speed.cache_bytes, speed.cache_bytes, 10 * speed.cache_bytes]), speed)
    assert share[0] < 1e-6
    assert sorted(share.tolist()) == share.tolist()
    assert share[-1] > 0.99


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=5), st.floats(1, 30))
def test_a_norm_lies_between_the_largest_and_the_sum(terms: list[float], order: float) -> None:
    got = float(norm([np.array([t]) for t in terms], order)[0])
    assert max(terms) * (1 - 1e-9) - 1e-9 <= got <= sum(terms) * (1 + 1e-9) + 1e-9


def test_a_board_of_more_power_is_faster_only_on_heavy_work() -> None:
    pcie, sxm = "a100-80gb-pcie", "a100-80gb"
    heavy = total_us(pcie, "bf16", "dense", 8192, 8192, 8192) / total_us(sxm, "bf16", "dense", 8192, 8192, 8192)
    light = total_us(pcie, "bf16", "dense", 64, 256, 256) / total_us(sxm, "bf16", "dense", 64, 256, 256)
    assert heavy > light
    assert light == pytest.approx(1.0, abs=0.05)


def test_stored_weights_count_the_index() -> None:
    assert weight_bytes("fp16", "2:4") == pytest.approx(2 * (1 - 0.4375))
    assert weight_bytes("int8", "2:4") == weight_bytes("fp8", "2:4") == pytest.approx(1 - 0.375)
    assert weight_bytes("int4", "2:4") == pytest.approx(0.5 * (1 - 0.375))


# Recorded by bcacdwk/vllmbench (Apache-2.0): best of cuBLASLt and cuSPARSELt, CUDA 12.9, A100 80GB PCIe and H100 PCIe.
TABLE = Path(__file__).parents[2] / "benchmarks" / "data" / "gemm_latency.csv"


@pytest.mark.parametrize(("gpu", "name"), [("A100", "a100-80gb-pcie"), ("H100", "h100-pcie")])
def test_recorded_calls_are_near_and_nine_of_ten_in_their_interval(gpu: str, name: str) -> None:
    target = load_target(name)
    with TABLE.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["gpu"] == gpu and int(row["m"]) <= 2**24][::3]
    inside, errors = 0, []
    for row in rows:
        sizes = (int(row[size]) for size in "mnk")
        got = predict_gemm(target, row["dtype"].lower(), row["sparsity"], *sizes)
        measured = float(row["latency_us"])
        inside += got.low_us <= measured <= got.high_us
        errors.append(abs(got.us / measured - 1))
        assert not got.scaled
    assert inside / len(rows) >= 0.88
    assert np.mean(errors) < 0.08


def test_bounds_name_what_limits() -> None:
    a100 = load_target("a100-80gb-pcie")
    assert predict_gemm(a100, "fp16", "dense", 8192, 8192, 8192).bound == "compute"
    assert predict_gemm(a100, "fp16", "dense", 16, 16384, 16384).bound == "memory"
    assert predict_gemm(a100, "fp16", "dense", 16, 16, 16).bound == "launch"


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(target_names()), st.sampled_from(sorted(BYTES)), st.sampled_from(["dense", "2:4"]), SIZES)
def test_every_target_answers_or_names_its_precisions(name: str, dtype: str, sparsity: str, size: int) -> None:
    target = load_target(name)
    if f"{dtype}/dense" not in target.peaks_tops:
        with pytest.raises(UsageError, match="has a peak for"):
            predict_gemm(target, dtype, sparsity, size, size, size)
        return
    got = predict_gemm(target, dtype, sparsity, size, size, size)
    assert 0 < got.low_us < got.us < got.high_us < math.inf


def test_paths_without_a_fit_say_so() -> None:
    a100, h100 = load_target("a100"), load_target("h100-pcie")
    scaled = predict_gemm(a100, "int4", "dense", 4096, 4096, 4096)
    assert scaled.scaled
    fitted = predict_gemm(a100, "int8", "dense", 4096, 4096, 4096)
    assert scaled.us < fitted.us
    assert scaled.high_us / scaled.low_us > fitted.high_us / fitted.low_us
    assert predict_gemm(h100, "fp16", "2:4", 512, 512, 512).scaled
    assert a100.fit_of("int4", "2:4").source.startswith("peak scaling from int8/2:4")


@pytest.mark.parametrize("size", [0, -1, 2**24 + 1])
def test_sizes_out_of_range_are_refused(size: int) -> None:
    for sizes in ((size, 1, 1), (1, size, 1), (1, 1, size)):
        with pytest.raises(UsageError, match="from 1 to 16777216"):
            predict_gemm(load_target("a100"), "fp16", "dense", *sizes)


def test_the_largest_and_smallest_sizes_are_answered() -> None:
    a100 = load_target("a100")
    assert math.isfinite(predict_gemm(a100, "fp16", "dense", 2**24, 2**24, 2**24).us)
    assert predict_gemm(a100, "fp16", "dense", 1, 1, 1).us > 0


@pytest.mark.parametrize(("dtype", "sparsity", "near"), [("f16", "dense", "fp16"), ("int8", "2:5", "2:4")])
def test_unknown_words_offer_the_nearest(dtype: str, sparsity: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"use the nearest: {near}"):
        predict_gemm(load_target("a100"), dtype, sparsity, 1, 1, 1)


def test_fp8_on_an_a100_is_refused_with_what_exists() -> None:
    with pytest.raises(UsageError, match=r"has a peak for .*int8/dense.*got fp8/dense"):
        predict_gemm(load_target("a100"), "fp8", "dense", 1, 1, 1)
