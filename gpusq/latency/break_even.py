"""The answer to "from which batch does it pay": speed-ups by batch with bounds, and the runs of batches that gain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gpusq.latency.predict import Prediction
from gpusq.workload import Layer

PLOTTED = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LEAST_GAIN = 1.001
"""Speed-ups closer to 1 than this are none: a CPU that ignores zeros gains nothing."""

Change = Literal["2:4", "INT8", "2:4 and INT8"]


@dataclass(frozen=True)
class Gain:
    """Speed-up at one batch (above 1 is faster) with its bounds."""

    batch: int
    point: float
    low: float
    high: float


@dataclass(frozen=True)
class BreakEven:
    """layer: its name, "" for the whole model. change: what is compared, `form` against `against`.

    batch: from here on it pays by the prediction, up to the last one examined; sure_batch: even the lower bound says
    so; None: it does not pay at the last. ranges: all batches at which it pays, as (first, last). gains: one a batch.
    """

    layer: str
    change: Change
    form: str
    against: str
    batch: int | None
    sure_batch: int | None
    ranges: tuple[tuple[int, int], ...]
    gains: tuple[Gain, ...]

    @property
    def pays(self) -> bool:
        """Whether there is any batch at which it pays."""
        return bool(self.ranges)

    def gain_at(self, batch: int) -> Gain | None:
        """The speed-up at one batch, where it was examined."""
        return next((gain for gain in self.gains if gain.batch == batch), None)

    def shown(self, batches: Sequence[int] = PLOTTED) -> tuple[Gain, ...]:
        """The gains at these batches."""
        return tuple(gain for gain in self.gains if gain.batch in batches)

    def to_json(self, batches: Sequence[int] = PLOTTED) -> dict[str, Any]:
        """Plain data, with the gains at these batches."""
        facts = {name: value for name, value in vars(self).items() if name != "gains"}
        return facts | {"ranges": [list(r) for r in self.ranges], "gains": [vars(g) for g in self.shown(batches)]}


Timed = tuple[float, float]
"""Time and the half-width of its interval in ln."""


def model_answers(runs: dict[str, list[Prediction]], batches: tuple[int, ...], correlation: float) -> list[BreakEven]:
    twin, sparse, int8, both = runs
    asked: tuple[tuple[Change, str, str], ...] = (
        ("2:4 and INT8", both, twin),
        ("INT8", int8, twin),
        ("2:4", both, int8),
        ("2:4", sparse, twin),
    )
    times = {
        name: [(run.latency_ms, math.log(run.high_ms / run.latency_ms)) for run in mine] for name, mine in runs.items()
    }
    return [
        _answer("", change, (form, against), _gains(batches, times[form], times[against], correlation))
        for change, form, against in asked
    ]


def layer_answers(
    runs: dict[str, list[Prediction]], batches: tuple[int, ...], compressed: Sequence[Layer], correlation: float
) -> list[BreakEven]:
    """2:4 in the precision that the layer has, and INT8 without 2:4, for each layer that is compressed."""
    twin, sparse, int8, both = runs
    times = {name: _layer_times(mine) for name, mine in runs.items()}
    found = []
    for layer in compressed:
        if layer.name not in times[twin]:
            continue
        asked: list[tuple[Change, str, str]] = []
        if layer.sparse:
            asked.append(("2:4", both, int8) if layer.int8 else ("2:4", sparse, twin))
        if layer.int8:
            asked.append(("INT8", int8, twin))
        for change, form, against in asked:
            pair = times[form][layer.name], times[against][layer.name]
            found.append(_answer(layer.name, change, (form, against), _gains(batches, *pair, correlation)))
    return found


def _layer_times(runs: list[Prediction]) -> dict[str, list[Timed]]:
    """Operator name to its times, in the order of the batches."""
    found: dict[str, list[Timed]] = {}
    for run in runs:
        for op in run.ops:
            width = math.log(op.high_us / op.us) if op.us > 0 else 0.0
            found.setdefault(op.name, []).append((op.us, width))
    return found


def _gains(batches: tuple[int, ...], ours: list[Timed], theirs: list[Timed], correlation: float) -> list[Gain]:
    """Speed-ups; the bounds take the two errors as correlated, on a logarithmic scale."""
    gains = []
    for batch, (us, a), (twin_us, b) in zip(batches, ours, theirs, strict=True):
        point = twin_us / us if us > 0 else 1.0
        spread = math.exp(math.sqrt(max(0.0, a * a + b * b - 2 * correlation * a * b)))
        gains.append(Gain(batch, point, point / spread, point * spread))
    return gains


def _answer(layer: str, change: Change, forms: tuple[str, str], gains: list[Gain]) -> BreakEven:
    ranges = paying_ranges([(gain.batch, gain.point) for gain in gains])
    sure = paying_ranges([(gain.batch, gain.low) for gain in gains])
    last = gains[-1].batch
    return BreakEven(
        layer,
        change,
        *forms,
        batch=ranges[-1][0] if ranges and ranges[-1][1] == last else None,
        sure_batch=sure[-1][0] if sure and sure[-1][1] == last else None,
        ranges=tuple(ranges),
        gains=tuple(gains),
    )


def paying_ranges(gains: Sequence[tuple[int, float]], least: float = LEAST_GAIN) -> list[tuple[int, int]]:
    """Runs of neighbouring batches, as (first, last), at which the gain is at least `least`; batches ascend."""
    found: list[tuple[int, int]] = []
    joined = False
    for batch, gain in gains:
        if gain >= least:
            found = [*found[:-1], (found[-1][0], batch)] if joined else [*found, (batch, batch)]
        joined = gain >= least
    return found
