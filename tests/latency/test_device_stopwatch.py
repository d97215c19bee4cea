"""The stopwatch of a device, in virtual time: what it reports is what the work took, whatever the host did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpusq.errors import UsageError
from gpusq.latency.device_stopwatch import throughput_of, time_on_device


@dataclass
class VirtualDevice:
    """Events on a clock that only work moves; the host's clock runs a little with every look at it."""

    now_ms: float = 0.0
    host_ns: int = 0
    events: dict[int, float] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def event(self) -> int:
        self.events[len(self.events) + 1] = -1.0
        return len(self.events)

    def record(self, event: int, stream: int) -> None:
        self.events[event] = self.now_ms

    def synchronize(self, stream: int) -> None:
        self.host_ns += 1000

    def elapsed_ms(self, start: int, end: int) -> float:
        return self.events[end] - self.events[start]

    def destroy_event(self, event: int) -> None:
        self.log.append(f"destroyed {event}")

    def clock_ns(self) -> int:
        self.host_ns += 1_000_000
        return self.host_ns


@dataclass
class VirtualWork:
    """One batch: takes what `takes_ms` says of its n-th launch."""

    device: VirtualDevice
    name: str
    takes_ms: Callable[[int], float]
    stream: int = 1
    launches: int = 0

    def launch(self) -> None:
        self.device.now_ms += self.takes_ms(self.launches)
        self.launches += 1
        self.device.log.append(self.name)


@given(st.lists(st.floats(0.01, 100.0), min_size=5, max_size=30), st.integers(0, 4), st.integers(1, 32))
def test_percentiles_are_those_of_the_counted_launches(times: list[float], warmup: int, batch: int) -> None:
    device = VirtualDevice()
    work = VirtualWork(device, "a", lambda n: 1e6 if n < warmup else times[(n - warmup) % len(times)])
    found = time_on_device(
        {"a": work},
        device,
        warmup=warmup,
        min_repeats=len(times),
        max_seconds=0,
        batch=batch,
        clock_ns=device.clock_ns,
    )["a"]
    assert found.n == len(times)
    assert found.warmup == warmup
    assert min(times) - 1e-5 <= found.p50_low_ms <= found.p50_ms <= found.p50_high_ms <= max(times) + 1e-5
    assert found.p50_ms <= found.p90_ms <= found.p99_ms <= max(times) + 1e-5
    assert found.throughput_per_s == pytest.approx(batch * 1e3 * len(times) / sum(times), rel=1e-3)


def test_works_take_turns_and_each_goes_first_in_its_turn() -> None:
    device = VirtualDevice()
    works = {name: VirtualWork(device, name, lambda n: 1.0) for name in "abc"}
    time_on_device(works, device, warmup=1, min_repeats=3, max_seconds=0, clock_ns=device.clock_ns)
    assert "".join(line for line in device.log if len(line) == 1) == "abc" + "abc" + "bca" + "cab"


def test_drift_falls_on_all_alike() -> None:
    """A device that slows down during the run does not favour the one that came first."""
    device = VirtualDevice()
    slow = {"first": 1.0, "second": 1.0}

    def takes(n: int) -> float:
        return 1.0 + n / 100

    works = {name: VirtualWork(device, name, takes) for name in slow}
    found = time_on_device(works, device, warmup=0, min_repeats=100, max_seconds=0, clock_ns=device.clock_ns)
    assert found["first"].p50_ms == pytest.approx(found["second"].p50_ms)


def test_it_goes_on_until_the_time_is_used_and_looks_at_the_clocks_meanwhile() -> None:
    device, looks = VirtualDevice(), []
    work = VirtualWork(device, "a", lambda n: 1.0)
    found = time_on_device(
        {"a": work}, device, min_repeats=1, max_seconds=1.0, look=lambda: looks.append(1), clock_ns=device.clock_ns
    )["a"]
    assert found.n > 100
    assert 10 <= len(looks) <= 30  # 20 a second


def test_events_are_given_back_even_where_the_work_fails() -> None:
    device = VirtualDevice()

    def fails(n: int) -> float:
        if n > 3:
            raise RuntimeError("device lost")
        return 1.0

    with pytest.raises(RuntimeError, match="lost"):
        time_on_device({"a": VirtualWork(device, "a", fails)}, device, warmup=2, clock_ns=device.clock_ns)
    assert sum(line.startswith("destroyed") for line in device.log) == 2


@pytest.mark.parametrize("streams", [1, 3])
def test_throughput_counts_every_stream(streams: int) -> None:
    device = VirtualDevice()
    works = [VirtualWork(device, str(i), lambda n: 1.0, stream=i + 1) for i in range(streams)]
    found = throughput_of(works, device, batch=8, seconds=0.5, clock_ns=device.clock_ns)
    assert found.streams == streams
    assert found.n == sum(work.launches - 1 for work in works)  # one warm-up each
    assert found.images_per_s == pytest.approx(8 * found.n / found.seconds)
    assert found.seconds >= 0.5


def test_looking_takes_no_throughput_and_short_batches_are_queued_deeper() -> None:
    device = VirtualDevice()
    waits: list[int] = []

    class Waits(VirtualDevice):
        def synchronize(self, stream: int) -> None:
            waits.append(work.launches)
            device.host_ns += 1_000_000  # what the host loses at each wait

    def look() -> None:
        device.host_ns += 10**9

    work = VirtualWork(device, "a", lambda n: 1.0)
    found = throughput_of([work], Waits(), batch=1, seconds=0.5, look=look, clock_ns=device.clock_ns)
    assert found.seconds < 1.0  # of many seconds of looks
    assert found.n / len(waits) > 30


@pytest.mark.parametrize(
    ("works", "changes"), [([], {}), ([1], {"batch": 0}), ([1, 1], {})], ids=["none", "batch 0", "one stream twice"]
)
def test_what_cannot_be_timed_is_refused(works: list[int], changes: dict[str, int]) -> None:
    device = VirtualDevice()
    made = [VirtualWork(device, "a", lambda n: 1.0, stream=stream) for stream in works]
    with pytest.raises(UsageError):
        throughput_of(made, device, **({"batch": 1} | changes))


@pytest.mark.parametrize("changes", [{"min_repeats": 0}, {"warmup": -1}, {"batch": 0}])
def test_counts_below_their_range_are_refused(changes: dict[str, int]) -> None:
    device = VirtualDevice()
    with pytest.raises(UsageError):
        time_on_device({"a": VirtualWork(device, "a", lambda n: 1.0)}, device, **changes)
    with pytest.raises(UsageError):
        time_on_device({}, device)
