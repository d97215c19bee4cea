"""What an accuracy change cannot tell, in words: an interval wider than what is judged, a dense model without any."""

from __future__ import annotations

from gpusq.reports.compare import AccuracyChange

NEARLY_ZERO = 1.0
"""Points of a metric below which a dense model counts as having learnt nothing."""


def accuracy_limits(change: AccuracyChange, max_drop: float) -> list[str]:
    """Sentences for a verdict; empty where the images suffice for a drop of `max_drop` points. No decision changes."""
    found = (_too_small(change.metric, change.twin, max_drop), interval_sentence(change, max_drop))
    return [text for text in found if text]


def interval_sentence(change: AccuracyChange, max_drop: float) -> str:
    """The 90 % interval of the change, where it is wider than `max_drop` points; else empty."""
    if change.high - change.low <= max_drop:
        return ""
    half = (change.high - change.low) / 2
    return (
        f"The change of {change.metric} has a 90 % interval of {change.low:+.2f} to {change.high:+.2f} points: "
        f"the {change.n:,} {unit_of(change.metric)} cannot tell changes of less than about {half:.1f} points."
    )


def _too_small(metric: str, dense: float, max_drop: float) -> str:
    """The sentence for a dense metric (0 to 1) that could be lost whole within `max_drop` points; else empty."""
    found = nothing_to_lose(metric, dense)
    if found or 100 * dense > max_drop:
        return found
    return f"The dense model's {metric} is {100 * dense:.2f} %: losing all of it would be within the drop allowed."


def nothing_to_lose(metric: str, dense: float) -> str:
    """The sentence for a dense model whose metric (0 to 1) is so small that no drop means nothing; else empty."""
    if 100 * dense > NEARLY_ZERO:
        return ""
    return (
        f"The dense model's {metric} is {100 * dense:.2f} %: there is next to nothing to lose, so a small drop proves "
        "nothing; train it first."
    )


def unit_of(metric: str) -> str:
    """What a metric counts: boxes for AP, else images."""
    return "boxes" if metric.startswith("AP") else "images"
