"""Predicted latency against batch for each form of a model, and from which batch a form pays. Never measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gpusq.reports.rows import Positive, Sealed, Text

Batch = Annotated[int, Field(ge=1)]


class SweepPoint(Sealed):
    """Latency of one batch in ms with its 90 % interval."""

    batch: Batch
    ms: Positive
    low_ms: Positive
    high_ms: Positive

    @model_validator(mode="after")
    def _ordered(self) -> SweepPoint:
        """The point lies in its interval."""
        if not self.low_ms <= self.ms <= self.high_ms:
            raise ValueError(f"a point lies in its interval, got {self.low_ms}, {self.ms}, {self.high_ms}")
        return self


class Curve(Sealed):
    """One form of the model ("sparse-int8") at several batches, ascending."""

    variant: Text
    points: Annotated[tuple[SweepPoint, ...], Field(min_length=1)]


class BatchGain(Sealed):
    """Speed-up at one batch (above 1 is faster) with its bounds."""

    batch: Batch
    point: Positive
    low: Positive
    high: Positive


class Payoff(Sealed):
    """From which batch `form` is faster than `against`: predicted (batch), and even by the lower bound (sure_batch).

    layers: names that share the answer; empty for the whole model. None: not at the largest batch examined; ranges:
    every run of batches at which it is faster, as (first, last).
    """

    layers: tuple[Text, ...] = ()
    change: Literal["2:4", "INT8", "2:4 and INT8"]
    form: Text
    against: Text
    batch: Batch | None
    sure_batch: Batch | None
    ranges: tuple[tuple[Batch, Batch], ...] = ()
    gains: tuple[BatchGain, ...] = ()


class Sweep(Sealed):
    """All that is predicted of one model on one target against batch. examined: (first, last) batch looked at."""

    status: Literal["predicted"] = "predicted"
    target: Text
    device: Text
    examined: tuple[Batch, Batch]
    curves: Annotated[tuple[Curve, ...], Field(min_length=1)]
    payoffs: tuple[Payoff, ...] = ()
