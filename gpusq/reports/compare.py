"""Compare two rows: only under equal conditions, and never without bounds."""

from __future__ import annotations

import math

from gpusq.errors import UsageError
from gpusq.reports.rows import UNKNOWN_POWER_MODE, Positive, Row, Sealed, Status, Text

# Both twins of a predicted pair come from one fit, one device description and one clock, so their errors share
# causes. 0.5 says that half of the variance (of the logarithm) is common; it is an assumption, not a measurement.
TWIN_ERROR_CORRELATION = 0.5
_Z90 = 1.6449

ASSUMPTIONS: dict[str, str] = {
    "measured": (
        "Measured bounds: each median lies between the noise bounds given with the row (90 % interval by order "
        "statistics; without them p90/p50 either way), both at once in the unfavourable direction."
    ),
    "predicted": (
        "Predicted bounds: 90 % intervals of both rows on a logarithmic scale, with the errors of the two twins "
        f"assumed to share {TWIN_ERROR_CORRELATION:.0%} of their variance (same device description, same fit)."
    ),
}


class Bounds(Sealed):
    """A speed-up (twin's latency over candidate's; above 1 is faster) with its bounds."""

    point: Positive
    low: Positive
    high: Positive


class Comparison(Sealed):
    """Candidate against one dense twin at one batch.

    deciding: whether this twin is the fastest at this batch, so that the verdict rests on it.
    """

    batch: int
    twin: Text
    status: Status
    speedup: Bounds
    twin_ms: Positive
    candidate_ms: Positive
    deciding: bool = False


class AccuracyChange(Sealed):
    """Candidate minus twin in percentage points, with a 90 % interval.

    The interval treats the two runs as independent draws of n images; on the same images it is narrower.
    """

    metric: Text
    points: float
    low: float
    high: float
    candidate: float
    twin: float
    n: int


def differences(a: Row, b: Row) -> tuple[str, ...]:
    """The conditions in which two rows differ, "name: a against b"; empty where they may be compared."""
    pairs = {
        "target": (a.target, b.target),
        "status": (a.status, b.status),
        "batch": (a.batch, b.batch),
        "input shape": (a.input_shape, b.input_shape),
        "device": (a.conditions.device, b.conditions.device),
        "power mode": (a.conditions.power_mode, b.conditions.power_mode),
        "clocks": (a.conditions.clocks, b.conditions.clocks),
        "threads": (a.conditions.threads, b.conditions.threads),
        "throttled": (a.conditions.throttled, b.conditions.throttled),
    }
    if a.status == "predicted":  # engines that ran may each have the runtime that serves them best
        pairs["runtime"] = (a.runtime, b.runtime)
    found = [f"{name}: {x} against {y}" for name, (x, y) in pairs.items() if x != y]
    if a.conditions.power_mode == b.conditions.power_mode == UNKNOWN_POWER_MODE:
        found.append(f"{UNKNOWN_POWER_MODE} of both: the device did not tell it")
    ours, theirs = a.conditions.libraries, b.conditions.libraries
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            found.append(f"library {name}: {ours.get(name, 'none')} against {theirs.get(name, 'none')}")
    return tuple(found)


def compare(candidate: Row, twin: Row) -> Comparison:
    """Speed-up of candidate over twin with bounds (see ASSUMPTIONS). Raises UsageError where conditions differ."""
    found = differences(candidate, twin)
    if found:
        raise UsageError(
            f"{candidate.artifact.variant} and {twin.artifact.variant} must run under the same conditions",
            got="; ".join(found),
            do="measure or predict both again in one run",
        )
    bounds = _measured_bounds if candidate.status == "measured" else _predicted_bounds
    return Comparison(
        batch=candidate.batch,
        twin=twin.artifact.variant,
        status=candidate.status,
        speedup=bounds(candidate, twin),
        twin_ms=twin.latency_ms.p50,
        candidate_ms=candidate.latency_ms.p50,
    )


def noise_band(row: Row) -> tuple[float, float]:
    """Bounds of a measured median in ms: as given, else p50 divided and multiplied by p90/p50."""
    latency = row.latency_ms
    if latency.noise_low is not None and latency.noise_high is not None:
        return latency.noise_low, latency.noise_high
    spread = (latency.p90 or latency.p50) / latency.p50
    return latency.p50 / spread, latency.p50 * spread


def _measured_bounds(candidate: Row, twin: Row) -> Bounds:
    """Worst case of both bands."""
    candidate_low, candidate_high = noise_band(candidate)
    twin_low, twin_high = noise_band(twin)
    point = twin.latency_ms.p50 / candidate.latency_ms.p50
    return Bounds(point=point, low=twin_low / candidate_high, high=twin_high / candidate_low)


def _predicted_bounds(candidate: Row, twin: Row) -> Bounds:
    """Correlated errors on a logarithmic scale, each side of the intervals on its own."""
    ours, theirs = candidate.latency_ms, twin.latency_ms
    point = theirs.p50 / ours.p50
    down = _difference(_log_ratio(ours.high, ours.p50), _log_ratio(theirs.p50, theirs.low))
    up = _difference(_log_ratio(ours.p50, ours.low), _log_ratio(theirs.high, theirs.p50))
    return Bounds(point=point, low=point * math.exp(-down), high=point * math.exp(up))


def _log_ratio(large: float | None, small: float | None) -> float:
    """ln(large / small); 0 where a bound is absent."""
    return math.log(large / small) if large and small else 0.0


def _difference(a: float, b: float) -> float:
    """Half-width of the difference of two errors with half-widths a and b, correlated as assumed."""
    return math.sqrt(max(0.0, a * a + b * b - 2 * TWIN_ERROR_CORRELATION * a * b))


def accuracy_change(candidate: Row, twin: Row) -> AccuracyChange | str:
    """The change in points, or the sentence that says why it is not known."""
    ours, theirs = candidate.accuracy, twin.accuracy
    if ours is None or theirs is None:
        lacking = [row.artifact.variant for row in (candidate, twin) if row.accuracy is None]
        return f"the accuracy of {' and '.join(lacking)} is not known"
    for name in ("metric", "split", "n"):
        x, y = getattr(ours, name), getattr(theirs, name)
        if x != y:
            return f"the accuracies are not comparable ({name}: {x} against {y})"
    points = 100 * (ours.value - theirs.value)
    variance = sum(p * (1 - p) for p in (ours.value, theirs.value)) / ours.n
    half = 100 * _Z90 * math.sqrt(variance)
    return AccuracyChange(
        metric=ours.metric,
        points=points,
        low=points - half,
        high=points + half,
        candidate=ours.value,
        twin=theirs.value,
        n=ours.n,
    )
