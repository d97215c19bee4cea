"""Time work on a GPU with its own events: warm-up, engines in turn, percentiles, and throughput at several streams.

Inputs and outputs lie on the device; the time of one batch runs from the event before it to the event behind it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from gpusq.errors import UsageError
from gpusq.latency.stopwatch import Clock, Timing, check_counts, timing_from_ns, turned

FIRST_IN_FLIGHT, MOST_IN_FLIGHT = 2, 64
"""Batches queued on each stream before the host waits: doubled until they keep the device busy for ROUND_S."""
ROUND_S = 0.02
"""Between two waits: the device stands still for the moment after each, and that must not weigh."""
WATCH_S = 0.05
"""Between two looks at clocks and throttling while the device works."""

Look = Callable[[], object]
"""Called now and then while the device is busy, for example to read its clocks."""


class Events(Protocol):
    """The part of `gpusq.engines.cuda.Cuda` that a stopwatch needs."""

    def event(self) -> int:
        """A new event."""
        ...

    def record(self, event: int, stream: int) -> None:
        """Queue the event."""
        ...

    def synchronize(self, stream: int) -> None:
        """Wait for all that is queued."""
        ...

    def elapsed_ms(self, start: int, end: int) -> float:
        """Milliseconds between two events that are done."""
        ...

    def destroy_event(self, event: int) -> None:
        """Give back an event."""
        ...


class Work(Protocol):
    """One batch that can be put on a stream again and again, such as a session with a captured graph."""

    stream: int

    def launch(self) -> None:
        """Queue it; returns at once."""
        ...


@dataclass(frozen=True)
class Throughput:
    """images_per_s of `streams` streams at once over `seconds` of host time, looks left out; n batches in all."""

    streams: int
    images_per_s: float
    n: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def no_look() -> None:
    """Looks at nothing."""


def time_on_device(
    works: Mapping[str, Work],
    events: Events,
    *,
    warmup: int = 10,
    min_repeats: int = 50,
    max_seconds: float = 3.0,
    batch: int = 1,
    look: Look = no_look,
    clock_ns: Clock = time.perf_counter_ns,
) -> dict[str, Timing]:
    """Latency of each work by device events, the works taking turns so that drift falls on all of them alike.

    At least `min_repeats` rounds, and more until `max_seconds` for each work have passed. look: called at most every
    WATCH_S during the rounds. Raises UsageError where there is nothing to time.
    """
    check_counts(works, warmup, min_repeats, batch)
    names = list(works)
    for _ in range(warmup):
        for name in names:
            _once(works[name], events)
    start, end = events.event(), events.event()
    taken: dict[str, list[int]] = {name: [] for name in names}
    stop_ns = clock_ns() + int(max_seconds * len(names) * 1e9)
    rounds, next_look = 0, 0
    try:
        while rounds < min_repeats or clock_ns() < stop_ns:
            for name in turned(names, rounds):
                taken[name].append(_timed_ns(works[name], events, start, end))
            rounds += 1
            if clock_ns() >= next_look:
                look()
                next_look = clock_ns() + int(WATCH_S * 1e9)
    finally:
        events.destroy_event(start)
        events.destroy_event(end)
    return {name: timing_from_ns(taken[name], warmup=warmup, batch=batch) for name in names}


def _timed_ns(work: Work, events: Events, start: int, end: int) -> int:
    events.record(start, work.stream)
    work.launch()
    events.record(end, work.stream)
    events.synchronize(work.stream)
    return round(events.elapsed_ms(start, end) * 1e6)


def _once(work: Work, events: Events) -> None:
    work.launch()
    events.synchronize(work.stream)


def throughput_of(
    works: Sequence[Work],
    events: Events,
    *,
    batch: int,
    seconds: float = 1.0,
    look: Look = no_look,
    clock_ns: Clock = time.perf_counter_ns,
) -> Throughput:
    """Images a second with every work on its own stream, kept busy for at least `seconds` (host clock).

    The works are the same engine on several streams. Raises UsageError for none, or for two on one stream.
    """
    check_counts({str(i): w for i, w in enumerate(works)}, 0, 1, batch)
    if len({work.stream for work in works}) != len(works):
        raise UsageError("each work needs its own stream", got=str([work.stream for work in works]))
    for work in works:
        _once(work, events)
    busy_ns, n, next_look, in_flight = 0, 0, 0, FIRST_IN_FLIGHT
    while n == 0 or busy_ns < seconds * 1e9:
        began = clock_ns()
        for _ in range(in_flight):
            for work in works:
                work.launch()
        for work in works:
            events.synchronize(work.stream)
        taken_ns = clock_ns() - began
        busy_ns, n = busy_ns + taken_ns, n + in_flight * len(works)
        if taken_ns < ROUND_S * 1e9:
            in_flight = min(2 * in_flight, MOST_IN_FLIGHT)
        if clock_ns() >= next_look:
            look()
            next_look = clock_ns() + int(WATCH_S * 1e9)
    taken = max(busy_ns, 1) / 1e9
    return Throughput(len(works), batch * n / taken, n, taken)
