"""Time calls on the device at hand: warm-up, repeats, percentiles, and the conditions they were taken under."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpusq.errors import UsageError

LIBRARIES = ("numpy", "onnxruntime", "openvino", "tensorrt", "torch")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

Z90 = 1.6449  # two-sided 90 % of a normal distribution

Clock = Callable[[], int]


@dataclass(frozen=True)
class Timing:
    """Latency of one call in milliseconds; throughput in items (batch) a second at the mean latency.

    p50_low_ms, p50_high_ms: 90 % confidence interval of the median by order statistics, calls taken as independent.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    n: int
    warmup: int
    mean_ms: float
    throughput_per_s: float
    p50_low_ms: float
    p50_high_ms: float


def time_calls(
    call: Callable[[], object],
    *,
    warmup: int = 5,
    min_repeats: int = 20,
    max_seconds: float = 3.0,
    batch: int = 1,
    clock_ns: Clock = time.perf_counter_ns,
) -> Timing:
    """Time one call. The call must not return before its work is done (synchronise a GPU inside it).

    warmup: calls made and not counted. Then at least `min_repeats` calls, and more until `max_seconds` have passed.
    batch: items that one call handles. Raises UsageError where a count is below its range.
    """
    return time_interleaved(
        {"call": call}, warmup=warmup, min_repeats=min_repeats, max_seconds=max_seconds, batch=batch, clock_ns=clock_ns
    )["call"]


def time_interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    warmup: int = 5,
    min_repeats: int = 20,
    max_seconds: float = 3.0,
    batch: int = 1,
    clock_ns: Clock = time.perf_counter_ns,
) -> dict[str, Timing]:
    """Time several calls in turn within one run, so that drift of clocks and load falls on all of them alike.

    One round makes each call once, starting one further along each time. At least `min_repeats` rounds, and
    more until `max_seconds` per call have passed. Raises UsageError where there is nothing to time.
    """
    check_counts(calls, warmup, min_repeats, batch)
    names = list(calls)
    for _ in range(warmup):
        for name in names:
            calls[name]()
    taken_ns: dict[str, list[int]] = {name: [] for name in names}
    end_ns = clock_ns() + int(max_seconds * len(names) * 1e9)
    rounds = 0
    while rounds < min_repeats or clock_ns() < end_ns:
        for name in turned(names, rounds):
            start = clock_ns()
            calls[name]()
            taken_ns[name].append(clock_ns() - start)
        rounds += 1
    return {name: timing_from_ns(taken_ns[name], warmup=warmup, batch=batch) for name in names}


def timing_from_ns(taken_ns: Sequence[int], *, warmup: int, batch: int = 1) -> Timing:
    """Percentiles (linear interpolation) of durations in nanoseconds, at least one."""
    taken_ms = np.asarray(taken_ns, dtype=np.float64) / 1e6
    p50, p90, p99 = (float(p) for p in np.percentile(taken_ms, [50, 90, 99]))
    mean_ms = float(taken_ms.mean())
    throughput = batch * 1e3 / mean_ms if mean_ms > 0 else 0.0
    low, high = _median_interval(np.sort(taken_ms))
    return Timing(p50, p90, p99, len(taken_ms), warmup, mean_ms, throughput, low, high)


def _median_interval(ascending: NDArray[np.float64]) -> tuple[float, float]:
    """The order statistics between which the median lies with 90 % confidence (normal form of the binomial)."""
    n = len(ascending)
    half = Z90 * n**0.5 / 2
    first, last = int(max(0, np.floor(n / 2 - half))), int(min(n - 1, np.ceil(n / 2 + half)))
    return float(ascending[first]), float(ascending[last])


def host_conditions() -> dict[str, object]:
    """What a measurement on this host stood under: CPU, cores, thread settings, load, library versions.

    Library versions come from package metadata; nothing is imported. Absent libraries and unset thread
    variables are left out. "load_average" is (1, 5, 15) minutes where the system offers it.
    """
    conditions: dict[str, object] = {
        "cpu": _cpu_model(),
        "cores": _usable_cores(),
        "threads": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": _library_versions(),
    }
    if hasattr(os, "getloadavg"):
        conditions["load_average"] = [round(load, 2) for load in os.getloadavg()]
    return conditions


def check_counts(calls: Mapping[str, object], warmup: int, min_repeats: int, batch: int) -> None:
    """Raise UsageError where there is nothing to time or a count is below its range."""
    if not calls:
        raise UsageError("the stopwatch takes at least one call", got="none", do="pass a name and a callable")
    for name, value, least in (("warmup", warmup, 0), ("min_repeats", min_repeats, 1), ("batch", batch, 1)):
        if value < least:
            raise UsageError(f"{name} is at least {least}", got=str(value), do=f"pass {name}={least} or more")


def turned(names: list[str], by: int) -> list[str]:
    """The names in order, starting `by` further along: who goes first changes from round to round."""
    start = by % len(names)
    return names[start:] + names[:start]


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _library_versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
