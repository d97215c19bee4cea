"""The stopwatch, with a clock that only moves when a call moves it."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable

import numpy as np
import pytest

from gpusq.errors import UsageError
from gpusq.latency import host_conditions, time_calls, time_interleaved
from gpusq.latency.stopwatch import timing_from_ns


class FakeClock:
    """Nanoseconds that pass only inside calls."""

    def __init__(self) -> None:
        self.now = 0
        self.log: list[str] = []

    def __call__(self) -> int:
        return self.now

    def call(self, name: str, *ms: float) -> Callable[[], None]:
        """A call that takes the given times in turn, then the last one for ever."""
        left = list(ms)

        def run() -> None:
            self.log.append(name)
            self.now += int((left.pop(0) if len(left) > 1 else left[0]) * 1e6)

        return run


def test_constant_calls_give_their_time() -> None:
    clock = FakeClock()
    timing = time_calls(clock.call("a", 2.0), warmup=3, min_repeats=10, max_seconds=0.0, batch=4, clock_ns=clock)
    assert (timing.p50_ms, timing.p90_ms, timing.p99_ms, timing.mean_ms) == (2.0, 2.0, 2.0, 2.0)
    assert (timing.n, timing.warmup, timing.throughput_per_s) == (10, 3, 2000.0)
    assert len(clock.log) == 13


def test_warmup_is_not_counted() -> None:
    clock = FakeClock()
    timing = time_calls(clock.call("a", 900.0, 900.0, 1.0), warmup=2, min_repeats=5, max_seconds=0.0, clock_ns=clock)
    assert timing.p99_ms == 1.0


def test_percentiles_are_numpys() -> None:
    times = [5, 1, 4, 2, 3, 100]
    timing = timing_from_ns([t * 10**6 for t in times], warmup=0)
    assert [timing.p50_ms, timing.p90_ms, timing.p99_ms] == pytest.approx(np.percentile(times, [50, 90, 99]).tolist())
    assert timing.p50_ms <= timing.p90_ms <= timing.p99_ms


def test_time_is_used_beyond_the_least_repeats() -> None:
    clock = FakeClock()
    timing = time_calls(clock.call("a", 100.0), warmup=0, min_repeats=5, max_seconds=3.0, clock_ns=clock)
    assert timing.n == 30


def test_calls_take_turns_and_drift_falls_on_all_alike() -> None:
    clock = FakeClock()
    drift = [float(ms) for ms in range(1, 41)]
    calls = {"a": clock.call("a", *drift), "b": clock.call("b", *drift)}
    found = time_interleaved(calls, warmup=1, min_repeats=20, max_seconds=0.0, clock_ns=clock)
    assert found["a"] == found["b"]
    assert clock.log[:8] == ["a", "b", "a", "b", "b", "a", "a", "b"]


def test_a_call_that_takes_no_time_has_no_throughput() -> None:
    clock = FakeClock()
    assert time_calls(clock.call("a", 0.0), min_repeats=2, max_seconds=0.0, clock_ns=clock).throughput_per_s == 0.0


@pytest.mark.parametrize("wrong", [{"warmup": -1}, {"min_repeats": 0}, {"batch": 0}])
def test_counts_below_their_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        time_interleaved({"a": lambda: None}, **wrong)  # type: ignore[arg-type]


def test_nothing_to_time_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one call"):
        time_interleaved({})


def test_errors_of_a_call_are_not_swallowed() -> None:
    def broken() -> None:
        raise RuntimeError("engine died")

    with pytest.raises(RuntimeError, match="engine died"):
        time_calls(broken)


def test_conditions_are_plain_data_about_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    found = host_conditions()
    assert json.loads(json.dumps(found)) == found
    assert found["threads"]["OMP_NUM_THREADS"] == "2"  # type: ignore[index]
    assert found["libraries"]["numpy"] == importlib.metadata.version("numpy")  # type: ignore[index]
    assert found["cpu"]
    assert int(str(found["cores"])) >= 1
