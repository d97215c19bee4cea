"""Ranges: largest value, percentile, least squared error, and modelopt's calibrator beside ours."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gpusq.errors import MissingExtraError, NonFiniteError, UsageError
from gpusq.quantization import HistogramObserver, MaxObserver, MseObserver, Observer, PercentileObserver, observer
from gpusq.quantization.observers import BINS, COUNTED_AT_ONCE, MSE_CANDIDATES

KINDS = ("max", "percentile", "mse")
seeds = st.integers(0, 2**31)


def draw(seed: int, count: int = 4000) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def seen(watcher: Observer, *batches: Tensor) -> float:
    for batch in batches:
        watcher.add(batch)
    return float(watcher.amax())


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(1, 6), st.floats(1e-3, 1e3))
def test_max_is_the_largest_absolute_value_over_all_batches(seed: int, parts: int, size: float) -> None:
    x = draw(seed, 600) * size
    assert seen(MaxObserver(), *x.chunk(parts)) == float(x.abs().max())


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from([50.0, 90.0, 99.0, 99.9, 99.99, 100.0]), st.integers(1, 5))
def test_percentile_is_within_two_bins_of_the_sorted_values(seed: int, percentile: float, parts: int) -> None:
    x = draw(seed)
    watcher = PercentileObserver(percentile)
    found = seen(watcher, *x.chunk(parts))
    wanted = percentile / 100 * len(x)
    assert int((x.abs() <= found * (1 + 1e-6)).sum()) >= wanted - 1
    assert int((x.abs() < found - 2 * watcher.width).sum()) <= wanted


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_percentiles_grow_with_the_percentile_up_to_the_maximum(seed: int) -> None:
    x = draw(seed)
    found = [seen(PercentileObserver(p), x) for p in (10.0, 50.0, 90.0, 99.0, 99.99, 100.0)]
    assert found == sorted(found)
    assert found[-1] == pytest.approx(float(x.abs().max()))
    assert found[0] < found[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_scaling_the_data_scales_the_range(kind: Any) -> None:
    x = draw(1)
    assert seen(observer(kind), x * 8) == pytest.approx(8 * seen(observer(kind), x), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_sign_of_the_data_does_not_matter(kind: Any) -> None:
    x = draw(2)
    assert seen(observer(kind), x) == seen(observer(kind), -x)


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(0, 5))
def test_growing_a_histogram_gives_what_one_pass_gives(seed: int, doublings: int) -> None:
    """A later, larger batch merges pairs of bins; only a value on the old upper edge may fall one bin lower."""
    small = draw(seed).clamp(-0.999, 0.999)
    small[0] = 0.9990234375  # the first width is then exact
    large = draw(seed + 1).clamp(-0.999, 0.999) * 2**doublings
    large[0] = 0.9990234375 * 2**doublings
    grown, once = HistogramObserver(), HistogramObserver()
    grown.add(small)
    grown.add(large)
    once.add(torch.cat([large, small]))
    assert grown.width == once.width
    assert float(grown.counts.sum()) == len(small) + len(large)
    assert float((grown.counts.cumsum(0) - once.counts.cumsum(0)).abs().max()) <= 1


@settings(max_examples=30, deadline=None)
@given(seeds, st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6))
def test_a_histogram_counts_every_value_whatever_the_order_of_sizes(seed: int, sizes: list[float]) -> None:
    watcher = HistogramObserver()
    batches = [draw(seed + i, 300) * size for i, size in enumerate(sizes)]
    last = seen(watcher, *batches)
    largest = max(float(b.abs().max()) for b in batches)
    assert float(watcher.counts.sum()) == 300 * len(sizes)
    assert largest * (1 - 1e-6) <= last <= largest + watcher.width * (1 + 1e-6)


def test_a_histogram_counts_beyond_what_float32_can(monkeypatch: pytest.MonkeyPatch) -> None:
    assert COUNTED_AT_ONCE <= 2**24
    sizes: list[int] = []
    histc = torch.histc

    def counted(values: Tensor, **options: Any) -> Tensor:
        sizes.append(len(values))
        return histc(values, **options)

    monkeypatch.setattr(torch, "histc", counted)
    watcher = HistogramObserver()
    watcher.add(torch.ones(1).expand(2**24 + 3))
    assert max(sizes) <= 2**24
    assert float(watcher.counts.sum()) == 2**24 + 3


def true_error(x: Tensor, amax: float, levels: int) -> float:
    scale = amax / levels
    return float(((x.double() / scale).round().clamp(-levels, levels) * scale - x.double()).square().sum())


@pytest.mark.parametrize("levels", [7, 31, 127])
@pytest.mark.parametrize("shape", ["normal", "heavy", "uniform", "outlier"])
def test_mse_range_is_as_good_as_the_best_found_by_brute_force(levels: int, shape: str) -> None:
    x = draw(5, 20000)
    x = {
        "normal": x,
        "heavy": x * x.abs().square(),
        "uniform": torch.rand(20000, generator=torch.Generator().manual_seed(5)),
        "outlier": torch.cat([x, torch.tensor([60.0])]),
    }[shape]
    found = seen(MseObserver(levels), x)
    largest = float(x.abs().max())
    best = min(true_error(x, largest * i / MSE_CANDIDATES, levels) for i in range(1, MSE_CANDIDATES + 1))
    assert true_error(x, found, levels) <= best * 1.03


def test_mse_clips_more_with_fewer_levels() -> None:
    x = draw(6, 20000)
    found = [seen(MseObserver(levels), x) for levels in (1, 7, 31, 127)]
    assert found == sorted(found)
    assert found[0] < 0.8 * found[-1]


def test_mse_leaves_out_a_lone_outlier_that_the_maximum_takes() -> None:
    x = torch.cat([draw(7, 50000), torch.tensor([100.0])])
    assert seen(MseObserver(7), x) < 10 < seen(MaxObserver(), x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_refused(kind: Any, bad: float) -> None:
    watcher = observer(kind)
    x = draw(8, 50)
    x[17] = bad
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        watcher.add(x)


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_and_nothing_give_a_zero_range(kind: Any) -> None:
    assert seen(observer(kind)) == 0.0
    assert seen(observer(kind), torch.zeros(4, 5)) == 0.0
    assert seen(observer(kind), torch.zeros(0)) == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_first_do_not_spoil_what_follows(kind: Any) -> None:
    x = draw(9)
    assert 0 < seen(observer(kind), torch.zeros(10), x) <= float(x.abs().max()) * (1 + 1 / BINS)


def test_half_precision_input_is_counted() -> None:
    x = draw(10).half()
    assert seen(PercentileObserver(), x) == seen(PercentileObserver(), x.float())


@pytest.mark.parametrize("percentile", [0.0, -1.0, 100.1, float("nan")])
def test_a_percentile_outside_its_range_is_refused(percentile: float) -> None:
    with pytest.raises(UsageError, match="percentile"):
        PercentileObserver(percentile)


def test_an_unknown_calibrator_is_refused() -> None:
    with pytest.raises(UsageError, match="calibrator"):
        observer("entropy")  # type: ignore[arg-type]


@pytest.fixture
def modelopt() -> None:
    pytest.importorskip("modelopt")


@pytest.mark.usefixtures("modelopt")
@pytest.mark.parametrize("shape", ["normal", "gelu", "heavy"])
def test_modelopt_agrees_with_our_percentile(shape: str) -> None:
    x = draw(11, 100_000)
    x = {"normal": x, "gelu": torch.nn.functional.gelu(x), "heavy": x * x.abs()}[shape]
    ours = seen(PercentileObserver(), *x.chunk(4))
    theirs = seen(observer("modelopt"), *x.chunk(4))
    assert theirs == pytest.approx(ours, rel=0.05)


@pytest.mark.usefixtures("modelopt")
def test_modelopt_too_refuses_nan() -> None:
    with pytest.raises(NonFiniteError):
        observer("modelopt").add(torch.tensor([1.0, float("nan")]))


def test_without_modelopt_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == "modelopt":
            raise ImportError(name)
        return imported(name, *rest, **more)

    for name in [n for n in sys.modules if n.split(".")[0] == "modelopt"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"\.\[modelopt\]"):
        observer("modelopt")
