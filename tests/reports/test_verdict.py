"""Verdicts: never a gain out of noise, out of unequal conditions, or at too high a price."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpusq.errors import UsageError
from gpusq.reports.compare import compare, differences
from gpusq.reports.rows import UNKNOWN_POWER_MODE, Conditions, Row
from gpusq.reports.verdict import Criteria, Verdict, verdict
from tests.reports.sample import DEVICES, row

latencies = st.floats(0.01, 1000)
statuses = st.sampled_from(["measured", "predicted"])


def accuracy(value: float, **changes: Any) -> dict[str, Any]:
    return {"metric": "top1", "value": value, "n": 10_000, "split": "val", "how": "test"} | changes


def pair(
    twin_ms: float, ms: float, status: str = "measured", batch: int = 1, drop: float = 0.0, **changes: Any
) -> list[Row]:
    """A dense twin and a candidate; `changes` are of the candidate."""
    return [
        row("cpu", "dense-fp16", batch, twin_ms, status, accuracy=accuracy(0.8)),
        row("cpu", "sparse-int8", batch, ms, status, **({"accuracy": accuracy(0.8 - drop / 100)} | changes)),
    ]


def judge(rows: list[Row], **criteria: Any) -> Verdict:
    (found,) = verdict(rows, Criteria(**criteria))
    return found


@given(latencies, statuses, st.floats(0.5, 2))
def test_identical_twins_never_ship(ms: float, status: str, need: float) -> None:
    found = judge(pair(ms, ms, status), min_speedup=need)
    assert found.decision != "ship"
    assert found.speedup is not None
    assert found.speedup.low <= 1 <= found.speedup.high
    assert found.basis == status


@given(latencies, latencies, statuses)
def test_the_answer_follows_the_bounds(twin_ms: float, ms: float, status: str) -> None:
    found = judge(pair(twin_ms, ms, status))
    bounds = found.speedup
    assert bounds is not None
    assert bounds.low <= bounds.point <= bounds.high
    assert bounds.point == pytest.approx(twin_ms / ms)
    expected = "ship" if bounds.low >= 1.05 else "do not ship" if bounds.high <= 1.05 else "undecided"
    assert found.decision == expected


@given(st.floats(0, 5), st.floats(0.01, 20), latencies, statuses)
def test_a_drop_beyond_the_limit_never_ships(limit: float, excess: float, ms: float, status: str) -> None:
    found = judge(pair(ms * 9, ms, status, drop=limit + excess), max_drop=limit)
    assert found.decision == "do not ship"
    assert "falls by" in found.reason


def test_a_drop_of_exactly_the_limit_ships() -> None:
    assert judge(pair(9, 1, drop=1.0), max_drop=1.0).decision == "ship"


@given(st.lists(st.floats(0.2, 5), min_size=1, max_size=4), statuses)
def test_swapping_roles_inverts_the_bounds(ratios: list[float], status: str) -> None:
    for ratio in ratios:
        twin, candidate = pair(ratio, 1.0, status)
        forth, back = compare(candidate, twin).speedup, compare(twin, candidate).speedup
        assert forth.low == pytest.approx(1 / back.high)
        assert forth.high == pytest.approx(1 / back.low)


def test_given_noise_bounds_replace_the_spread() -> None:
    latency = {"p50": 1.0, "p90": 1.5, "p99": 1.6, "n": 100, "warmup": 5}
    rows = pair(1.2, 1.0)
    twin = rows[0].model_copy(update={"latency_ms": rows[1].latency_ms.model_validate({**latency, "p50": 1.2})})
    noisy = pair(1.2, 1.0, latency_ms=latency)[1]
    tight = pair(1.2, 1.0, latency_ms=latency | {"noise_low": 0.999, "noise_high": 1.001})[1]
    assert compare(noisy, twin).speedup.low < compare(tight, twin).speedup.low
    assert judge([rows[0], noisy]).decision == "undecided"
    assert judge([rows[0], tight]).decision == "ship"


def test_correlated_errors_narrow_a_predicted_ratio() -> None:
    found = judge(pair(2.0, 1.0, "predicted"))
    assert found.speedup is not None
    assert 2 * 0.85 / 1.2 < found.speedup.low < 2 < found.speedup.high < 2 * 1.2 / 0.85
    assert "assumed to share 50%" in found.assumption
    assert "gpusq import FILE" in found.next_step


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"device": "another"}, "device"),
        ({"power_mode": "30W"}, "power mode"),
        ({"clocks": "unlocked"}, "clocks"),
        ({"threads": 2}, "threads: 2 against 4"),
        ({"libraries": {"openvino": "2025.2.0"}}, "library openvino: 2025.2.0 against 2025.1.0"),
        ({"throttled": True}, "throttled"),
    ],
)
def test_different_conditions_are_not_compared(change: dict[str, Any], words: str) -> None:
    rows = pair(9, 1, conditions={"date": "2026-01-02", **DEVICES["cpu"], **change})
    found = judge(rows)
    assert found.decision == "undecided"
    assert words in found.reason
    assert found.speedup is None
    with pytest.raises(UsageError, match=words):
        compare(rows[1], rows[0])


def test_two_unknown_power_modes_are_not_compared() -> None:
    conditions = {"date": "2026-01-02", **DEVICES["cpu"], "power_mode": UNKNOWN_POWER_MODE}
    rows = [row.model_copy(update={"conditions": Conditions.model_validate(conditions)}) for row in pair(9, 1)]
    found = judge(rows)
    assert (found.decision, found.speedup) == ("undecided", None)
    assert UNKNOWN_POWER_MODE in found.reason


def test_different_runs_are_not_compared() -> None:
    found = judge(pair(9, 1, input_shape=(3, 8, 8)))
    assert found.decision == "undecided"
    assert "input shape" in found.reason


def test_measured_twins_may_each_run_in_the_runtime_that_serves_them_best() -> None:
    assert judge(pair(9, 1, runtime="onnxruntime")).decision == "ship"


def test_the_date_is_not_a_condition() -> None:
    rows = pair(9, 1, conditions={**DEVICES["cpu"], "date": "2026-05-05"})
    assert differences(*rows) == ()
    assert judge(rows).decision == "ship"


def test_a_throttled_pair_proves_nothing() -> None:
    conditions = {"date": "2026-01-02", **DEVICES["cpu"], "throttled": True}
    twin, candidate = pair(9, 1, conditions=conditions)
    twin = twin.model_copy(update={"conditions": candidate.conditions})
    assert judge([twin, candidate]).decision == "undecided"


def test_measured_is_never_compared_with_predicted() -> None:
    twin = pair(9, 1, "predicted")[0]
    candidate = pair(9, 1, "measured")[1]
    found = judge([twin, candidate])
    assert (found.decision, found.speedup, found.basis) == ("undecided", None, "measured")
    with pytest.raises(UsageError, match="status"):
        compare(candidate, twin)


def test_measured_pairs_go_before_predicted_ones() -> None:
    found = judge([*pair(9, 1, "predicted"), *pair(0.5, 1, "measured")])
    assert (found.basis, found.decision) == ("measured", "do not ship")


def test_the_fastest_twin_decides() -> None:
    slow = row("cpu", "dense-fp32", 1, 9.0, "measured", accuracy=accuracy(0.8))
    found = judge([slow, *pair(1.0, 1.0)])
    assert found.decision != "ship"
    assert {c.twin: c.deciding for c in found.comparisons} == {"dense-fp32": False, "dense-fp16": True}


def test_one_unsure_batch_is_named() -> None:
    found = judge([*pair(9, 1, batch=8), *pair(1, 1, batch=1)])
    assert found.decision == "undecided"
    assert "not surely at batch 1" in found.reason
    assert judge([*pair(9, 1, batch=8), *pair(1, 1, batch=1)], batches=(8,)).decision == "ship"
    assert judge(pair(9, 1, batch=8), batches=(8, 64)).decision == "undecided"


def test_no_twin_no_verdict_in_favour() -> None:
    found = judge(pair(9, 1)[1:])
    assert found.decision == "undecided"
    assert "dense twin" in found.reason


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (None, "accuracy of sparse-int8 is not known"),
        (accuracy(0.8, n=500), "n: 500 against 10000"),
        (accuracy(0.8, split="train"), "split: train against val"),
        (accuracy(0.8, metric="agreement"), "metric"),
    ],
)
def test_speed_alone_does_not_ship(changed: dict[str, Any] | None, words: str) -> None:
    found = judge(pair(9, 1, accuracy=changed))
    assert found.decision == "undecided"
    assert words in found.reason


def test_few_images_cannot_prove_a_small_drop() -> None:
    few = accuracy(0.8, n=20)
    twin, candidate = pair(9, 1, accuracy=few)
    twin = twin.model_copy(update={"accuracy": candidate.accuracy})
    assert "20 images" in judge([twin, candidate]).reason


def measured_pair(value: float, points: float, n: int, metric: str = "top1") -> list[Row]:
    """A twin of accuracy `value` and a nine times faster candidate that changes by `points`, over n images or boxes."""
    twin, candidate = pair(9, 1, accuracy=accuracy(value + points / 100, n=n, metric=metric))
    dense = twin.accuracy.model_copy(update={"value": value, "n": n, "metric": metric})  # type: ignore[union-attr]
    return [twin.model_copy(update={"accuracy": dense}), candidate]


def test_an_interval_wider_than_the_allowed_drop_is_told_and_decides_nothing() -> None:
    found = judge(measured_pair(0.0504, -0.22, 277, "AP"))
    assert found.decision == "ship"
    assert found.accuracy is not None
    assert found.accuracy.low < -3 < 2.5 < found.accuracy.high
    assert "AP falls by 0.22 points (allowed: 1). The change of AP has a 90 % interval of -3.2" in found.reason
    assert "the 277 boxes cannot tell changes of less than about 3.0 points." in found.reason
    assert "images cannot tell" in judge(measured_pair(0.8, -2, 500)).reason


def test_an_interval_within_the_allowed_drop_needs_no_words() -> None:
    found = judge(measured_pair(0.8, -0.22, 50_000))
    assert (found.decision, found.reason.endswith("(allowed: 1).")) == ("ship", True)


@pytest.mark.parametrize(("value", "told"), [(0.0, True), (0.0003, True), (0.01, True), (0.0504, False), (0.8, False)])
def test_a_dense_model_that_finds_nothing_is_told(value: float, told: bool) -> None:
    found = judge(measured_pair(value, 0.0, 277, "AP"))
    assert (f"The dense model's AP is {100 * value:.2f} %: there is next to nothing to lose" in found.reason) is told


def test_a_metric_that_may_be_lost_whole_is_told() -> None:
    found = judge(measured_pair(0.0504, -2, 50_000, "AP"), max_drop=6)
    assert found.decision == "ship"
    assert "AP is 5.04 %: losing all of it would be within the drop allowed." in found.reason
    assert "would be within" not in judge(measured_pair(0.8, -2, 50_000), max_drop=6).reason


def test_only_the_furthest_artifacts_are_judged() -> None:
    earlier = {"kind": "sparse", "digest": "d", "stage": "prune", "variant": "sparse-fp16"}
    rows = [*pair(9, 1), row("cpu", "sparse-fp16", 1, 1.0, artifact=earlier)]
    assert [v.variant for v in verdict(rows)] == ["sparse-int8"]


def test_nothing_to_judge() -> None:
    assert verdict([]) == []
    assert verdict(pair(1, 1)[:1]) == []


def test_each_target_has_its_own_verdict() -> None:
    other = [r.model_copy(update={"target": "a100"}) for r in pair(1, 9)]
    assert [(v.target, v.decision) for v in verdict([*pair(9, 1), *other])] == [
        ("cpu", "ship"),
        ("a100", "do not ship"),
    ]
