"""Break-even batches: runs of paying batches by property, layers that cannot gain named, CPUs that ignore zeros."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpusq.errors import UsageError
from gpusq.latency import encoder_layers, encoder_workload, predict
from gpusq.latency.break_even import LEAST_GAIN, paying_ranges
from gpusq.latency.decisions import decide, forms_of
from gpusq.targets import load_target
from gpusq.workload import Layer, Op, Workload

VIT = encoder_workload(2, 768, 12, 3072, 197, 768, 196)
BATCHES = (1, 2, 4, 8, 32, 128)


@given(st.lists(st.floats(0.5, 2.0), min_size=1, max_size=40))
def test_ranges_hold_exactly_the_paying_batches(gains: list[float]) -> None:
    numbered = list(enumerate(gains, 1))
    ranges = paying_ranges(numbered)
    inside = {batch for first, last in ranges for batch in range(first, last + 1)}
    assert inside == {batch for batch, gain in numbered if gain >= LEAST_GAIN}
    assert all(b[0] > a[1] + 1 for a, b in itertools.pairwise(ranges))


def test_the_break_even_is_where_the_predictions_cross() -> None:
    found = decide(VIT, encoder_layers(VIT), load_target("a100"), BATCHES)
    for answer in found.model:
        for gain in answer.gains:
            ours, theirs = (
                next(p.ms for p in found.curves[form] if p.batch == gain.batch)
                for form in (answer.form, answer.against)
            )
            assert gain.point == pytest.approx(theirs / ours)
            assert gain.low < gain.point < gain.high
        if answer.batch is not None:
            assert all(g.point >= LEAST_GAIN for g in answer.gains if g.batch >= answer.batch)
        if answer.sure_batch is not None:
            assert answer.batch is not None
            assert answer.batch <= answer.sure_batch


def test_curves_are_the_predictions_of_the_forms() -> None:
    target = load_target("a100")
    found = decide(VIT, encoder_layers(VIT), target, (8,))
    assert list(found.curves) == ["dense-fp16", "sparse-fp16", "dense-int8", "sparse-int8"]
    both = predict(VIT, encoder_layers(VIT, sparse=True, int8=True), target, 8)
    (point,) = found.curves["sparse-int8"]
    assert (point.ms, point.low_ms, point.high_ms) == (both.latency_ms, both.low_ms, both.high_ms)


def test_a_compressed_model_is_judged_as_it_is() -> None:
    layers = encoder_layers(VIT, sparse=True, int8=True)
    kept = (Layer("patch", "linear", 768, 768), *layers[1:])
    found = decide(VIT, kept, load_target("a100"), (1, 64))
    assert "patch" not in {answer.layer for answer in found.layers}
    assert {answer.change for answer in found.layers} == {"2:4", "INT8"}


def test_layers_that_zeros_make_slower_are_named() -> None:
    target = load_target("a100")
    slow = {
        key: fit.model_copy(update={"k_latency_us": 50.0}) for key, fit in target.fit.items() if key.endswith("2:4")
    }
    tiny = Workload((1, 1, 32), (Op("head", "gemm", 1, 32, 32, 1, 32, 32),), 1024)
    layers = (Layer("head", "linear", 32, 32),)
    found = decide(tiny, layers, target.model_copy(update={"fit": target.fit | slow}), (1, 2, 4))
    assert found.sparse_does_not_pay == ("head",)
    assert found.sparse_loses_at(2) == ("head",)


def test_a_cpu_ignores_zeros_and_gains_from_int8() -> None:
    found = decide(VIT, encoder_layers(VIT), load_target("cpu"), (1, 8))
    assert next(iter(found.curves)) == "dense-fp32"
    answers = {(a.change, a.form): a for a in found.model}
    assert not answers["2:4", "sparse-int8"].pays
    assert answers["INT8", "dense-int8"].batch == 1
    assert len(found.sparse_does_not_pay) == len(encoder_layers(VIT))


def test_forms_leave_what_cannot_be_two_four() -> None:
    odd = (Layer("a", "linear", 8, 27), Layer("b", "linear", 8, 32))
    sparse = forms_of(odd, "fp16")["sparse-int8"]
    assert [(x.sparse, x.int8) for x in sparse] == [(False, True), (True, True)]


def test_less_correlated_errors_are_less_certain() -> None:
    widths = []
    for correlation in (0.0, 0.9):
        found = decide(VIT, encoder_layers(VIT), load_target("a100"), (8,), correlation=correlation)
        widths.append(found.model[0].gains[0].high / found.model[0].gains[0].low)
    assert widths[0] > widths[1]


@pytest.mark.parametrize("batches", [(), (0, 1), (2, 1), (1, 1)])
def test_batches_ascend(batches: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="ascend"):
        decide(VIT, encoder_layers(VIT), load_target("a100"), batches)


def test_plain_data_says_predicted_and_carries_intervals() -> None:
    found = decide(VIT, encoder_layers(VIT), load_target("agx-orin@30W"), BATCHES).to_json()
    assert found["status"] == "predicted"
    assert found["examined"] == [1, 128]
    for answer in (*found["model"], *found["layers"]):
        assert all(g["low"] < g["point"] < g["high"] for g in answer["gains"])
