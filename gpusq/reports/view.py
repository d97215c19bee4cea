"""What the terminal table and the page have in common: how a figure is written, and what belongs to a row."""

from __future__ import annotations

import re

from gpusq.reports.compare import Bounds, noise_band
from gpusq.reports.report import Report
from gpusq.reports.rows import Latency, Row
from gpusq.reports.verdict import Verdict

_LONG_PATH = re.compile(r"(^|(?<=:)|(?<= ))/(?:.*/)?(?=[^/])")
_STAGES = ("intake", "train", "prune", "qat", "export", "build")


def figure(value: float) -> str:
    """Three significant digits, plain notation: 0.0123, 1.23, 12.3, 123, 1234."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}" if value >= 0.001 else f"{value:.1e}"


def large(value: float) -> str:
    """A count with its unit prefix: 22.1 M, 4.60 G."""
    for limit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {prefix}"
    return f"{value:.0f}"


def short_paths(title: str) -> str:
    """A report's title with its absolute paths cut to their last part: "hf:.../vit on coco:.../aerial"."""
    return " on ".join(_LONG_PATH.sub(r"\1.../", part) for part in title.split(" on "))


def megabytes(count: int) -> str:
    """Bytes as MB (10^6)."""
    return f"{figure(count / 1e6)} MB"


def percent(fraction: float) -> str:
    """A share in percent, small ones not rounded to nothing."""
    return f"{100 * fraction:.1f} %" if fraction >= 0.001 or fraction == 0 else "< 0.1 %"


def speedup_text(bounds: Bounds) -> str:
    """ "1.31x (1.24 to 1.38)"."""
    return f"{bounds.point:.2f}x ({bounds.low:.2f} to {bounds.high:.2f})"


def latency_bounds(row: Row) -> tuple[float, float]:
    """Low and high of the latency in ms: the predicted interval, or the noise band of the median."""
    latency: Latency = row.latency_ms
    if latency.low is not None and latency.high is not None:
        return latency.low, latency.high
    return noise_band(row)


def stage_rank(stage: str) -> int:
    """Position of a stage in the chain; unknown stages come last."""
    return _STAGES.index(stage) if stage in _STAGES else len(_STAGES)


def speedups(report: Report) -> dict[tuple[str, str, str, int, str], tuple[Bounds, str]]:
    """(target, variant, digest, batch, status) -> deciding speed-up and the twin's variant."""
    return {
        (v.target, v.variant, v.digest, c.batch, c.status): (c.speedup, c.twin)
        for v in report.verdicts
        for c in v.comparisons
        if c.deciding
    }


def row_key(row: Row) -> tuple[str, str, str, int, str]:
    """The key of a row in `speedups`."""
    return row.target, row.artifact.variant, row.artifact.digest, row.batch, row.status


def summary(verdicts: tuple[Verdict, ...]) -> str:
    """All decisions in one sentence: "Ship on a100 (predicted); do not ship on cpu (measured)."."""
    groups: dict[str, list[str]] = {}
    for v in verdicts:
        several = sum(other.target == v.target for other in verdicts) > 1
        name = f"{v.variant} on {v.target}" if several else f"on {v.target}"
        groups.setdefault(v.decision, []).append(f"{name} ({v.basis})")
    order = [d for d in ("ship", "do not ship", "undecided") if d in groups]
    text = "; ".join(f"{decision} {', '.join(groups[decision])}" for decision in order)
    return f"{text[0].upper()}{text[1:]}." if text else "No compressed variant to judge."
