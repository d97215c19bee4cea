"""The page's sections as plain data: what the template shows, computed here so that the template only lays out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpusq.reports.compare import Comparison
from gpusq.reports.report import LayerTime, Lineage, Report
from gpusq.reports.rows import Accuracy, Coverage, Row, TransformerPart
from gpusq.reports.verdict import Verdict
from gpusq.reports.view import row_key, speedups, stage_rank

_Z90 = 1.6449


@dataclass(frozen=True)
class Strip:
    """An interval on an axis, all positions in percent of its width; `mark` is the reference line."""

    low: float
    point: float
    high: float
    mark: float


@dataclass(frozen=True)
class Line:
    """One deciding comparison with its strip."""

    comparison: Comparison
    strip: Strip


@dataclass(frozen=True)
class Card:
    """A verdict, ready to show; css: class name of the decision."""

    verdict: Verdict
    css: str
    lines: tuple[Line, ...]
    others: tuple[Comparison, ...]


def cards(report: Report) -> list[Card]:
    """One card per verdict; all strips share one logarithmic axis so that targets can be compared by eye."""
    deciding = [c for v in report.verdicts for c in v.comparisons if c.deciding]
    low = min([0.8, *(c.speedup.low for c in deciding)])
    high = max([1.5, *(c.speedup.high for c in deciding)])

    def at(value: float) -> float:
        return 2 + 96 * math.log(value / low) / math.log(high / low)

    def line(c: Comparison) -> Line:
        return Line(c, Strip(at(c.speedup.low), at(c.speedup.point), at(c.speedup.high), at(1)))

    return [
        Card(
            verdict=v,
            css=v.decision.replace(" ", "-"),
            lines=tuple(line(c) for c in v.comparisons if c.deciding),
            others=tuple(c for c in v.comparisons if not c.deciding),
        )
        for v in report.verdicts
    ]


@dataclass(frozen=True)
class AccuracyLine:
    """Accuracy of one artifact; change in points against the first dense one, None where not comparable."""

    stage: str
    variant: str
    targets: tuple[str, ...]
    accuracy: Accuracy
    change: float | None
    strip: Strip


def accuracy(report: Report) -> list[AccuracyLine]:
    """Each (stage, compressed or twin, accuracy) once, in the order of the chain, with 90 % intervals from n."""
    found: dict[tuple[str, bool, str], list[Row]] = {}
    for row in sorted(report.rows, key=lambda r: (stage_rank(r.artifact.stage), not r.is_twin)):
        if row.accuracy:
            key = (row.artifact.stage, row.is_twin, row.accuracy.model_dump_json())
            found.setdefault(key, []).append(row)
    known = [(rows, value) for rows in found.values() if (value := rows[0].accuracy)]
    low, high = _axis([value for _, value in known])
    dense = next((value for rows, value in known if rows[0].is_twin), None)

    def at(value: float) -> float:
        return 2 + 96 * min(1.0, max(0.0, (value - low) / (high - low)))

    lines = []
    for rows, value in known:
        half = _half_width(value)
        strip = Strip(at(value.value - half), at(value.value), at(value.value + half), at((dense or value).value))
        change = _change(value, dense)
        variants = ", ".join(dict.fromkeys(r.artifact.variant for r in rows))
        targets = tuple(dict.fromkeys(r.target for r in rows))
        lines.append(AccuracyLine(rows[0].artifact.stage, variants, targets, value, change, strip))
    return lines


def _half_width(value: Accuracy) -> float:
    """Half of the 90 % interval of a fraction over n images."""
    return _Z90 * math.sqrt(value.value * (1 - value.value) / value.n)


def _axis(values: Sequence[Accuracy]) -> tuple[float, float]:
    """A range that holds all intervals, never narrower than two points."""
    lows = [v.value - _half_width(v) for v in values] or [0.0]
    highs = [v.value + _half_width(v) for v in values] or [1.0]
    spare = max(0.0, 0.02 - (max(highs) - min(lows))) / 2
    return min(lows) - spare, max(highs) + spare


def _change(value: Accuracy, dense: Accuracy | None) -> float | None:
    """Points against the dense one, where metric, split and n agree."""
    if dense is None or (value.metric, value.split, value.n) != (dense.metric, dense.split, dense.n):
        return None
    return 100 * (value.value - dense.value)


def sizes(report: Report) -> list[Row]:
    """One row per variant and stored size, largest first; of equal ones the furthest along the chain."""
    found: dict[tuple[str, int], Row] = {}
    for row in sorted(report.rows, key=lambda r: stage_rank(r.artifact.stage)):
        if row.size:
            found[row.artifact.variant, row.size.bytes] = row
    return sorted(found.values(), key=lambda row: -(row.size.bytes if row.size else 0))


@dataclass(frozen=True)
class Gap:
    """Layers that are not fully covered for the same reasons; an empty reason: covered in that respect."""

    names: tuple[str, ...]
    share: float
    why_dense: str
    why_float: str


@dataclass(frozen=True)
class Covered:
    """Coverage of the variants that share it, split into four parts that add up to 1.

    transformer: of a model with convolutions, what holds for its linear layers and attention products alone.
    """

    variants: tuple[str, ...]
    both: float
    sparse_only: float
    int8_only: float
    neither: float
    gaps: tuple[Gap, ...]
    transformer: TransformerPart | None = None


def coverages(report: Report) -> list[Covered]:
    """Each distinct coverage of a compressed variant once, the furthest of the chain first."""
    twins = {row.artifact.digest for row in report.rows if row.is_twin}
    found: dict[str, tuple[Coverage, list[str]]] = {}
    for entry in sorted(report.coverage, key=lambda e: -stage_rank(e.artifact.stage)):
        if entry.artifact.digest not in twins:
            names = found.setdefault(entry.coverage.model_dump_json(), (entry.coverage, []))[1]
            names.append(entry.artifact.variant)
    return [_covered(coverage, tuple(dict.fromkeys(names))) for coverage, names in found.values()]


def _covered(coverage: Coverage, variants: tuple[str, ...]) -> Covered:
    """Join the two lists of what is not covered by name, then group by reasons."""
    dense = {layer.name: layer for layer in coverage.dense}
    floats = {layer.name: layer for layer in coverage.float}
    groups: dict[tuple[str, str], dict[str, float]] = {}
    for name in dict.fromkeys([*dense, *floats]):
        d, f = dense.get(name), floats.get(name)
        reasons = (d.reason or "no reason given" if d else "", f.reason or "no reason given" if f else "")
        groups.setdefault(reasons, {})[name] = d.share if d else f.share if f else 0.0
    gaps = [Gap(tuple(names), sum(names.values()), *reasons) for reasons, names in groups.items()]
    union = 1 - sum(gap.share for gap in gaps if gap.why_dense and gap.why_float)
    both = min(max(0.0, coverage.sparse + coverage.int8 - union), coverage.sparse, coverage.int8)
    return Covered(
        variants=variants,
        both=both,
        sparse_only=coverage.sparse - both,
        int8_only=coverage.int8 - both,
        neither=max(0.0, 1 - (coverage.sparse + coverage.int8 - both)),
        gaps=tuple(sorted(gaps, key=lambda gap: -gap.share)),
        transformer=coverage.transformer,
    )


def tree(lineage: Sequence[Lineage]) -> list[tuple[int, Lineage]]:
    """(depth, artifact), children under their first parent that is listed."""
    known = {entry.digest for entry in lineage}
    children: dict[str, list[Lineage]] = {}
    for entry in lineage:
        parent = next((p for p in entry.parents if p in known and p != entry.digest), "")
        children.setdefault(parent, []).append(entry)
    lines: list[tuple[int, Lineage]] = []
    waiting = [(0, entry) for entry in reversed(children.pop("", []))]
    while waiting:
        depth, entry = waiting.pop()
        lines.append((depth, entry))
        waiting += [(depth + 1, child) for child in reversed(children.pop(entry.digest, []))]
    return lines + [(0, entry) for rest in children.values() for entry in rest]


def _condition_key(row: Row) -> str:
    """Equal where two rows ran under the same conditions."""
    return f"{row.conditions.model_dump_json()} {row.runtime} {row.input_shape} {row.status}"


def conditions(report: Report) -> list[tuple[str, Row]]:
    """(C1, a row with these conditions) for each distinct set."""
    firsts: dict[str, Row] = {}
    for row in report.rows:
        firsts.setdefault(_condition_key(row), row)
    return [(f"C{i}", row) for i, row in enumerate(firsts.values(), 1)]


def row_lines(report: Report) -> list[dict[str, Any]]:
    """Every row with the name of its conditions and its deciding speed-up."""
    names = {_condition_key(row): name for name, row in conditions(report)}
    gains = speedups(report)
    return [
        {"row": row, "conditions": names[_condition_key(row)], "gain": gains.get(row_key(row))} for row in report.rows
    ]


@dataclass(frozen=True)
class LayerGroup:
    """Predicted times of one pass; shares of its time by bound."""

    id: str
    target: str
    variant: str
    batch: int
    times: tuple[LayerTime, ...]
    total_us: float
    shares: dict[str, float]


def layer_groups(report: Report) -> list[LayerGroup]:
    """Operators by (target, variant, batch)."""
    groups: dict[tuple[str, str, int], list[LayerTime]] = {}
    for time in report.layer_times:
        groups.setdefault((time.target, time.variant, time.batch), []).append(time)
    return [
        LayerGroup(f"layers-{i}", *key, tuple(times), sum(t.us for t in times), _bound_shares(times))
        for i, (key, times) in enumerate(groups.items())
    ]


def _bound_shares(times: Sequence[LayerTime]) -> dict[str, float]:
    """Share of the time that each bound holds."""
    total = sum(t.us for t in times) or 1.0
    return {bound: sum(t.us for t in times if t.bound == bound) / total for bound in ("compute", "memory", "launch")}


def deployed(report: Report, target: str) -> list[Row]:
    """The rows to plot for a target: those of the judged artifacts and the twins they were compared with."""
    judged = {v.digest for v in report.verdicts if v.target == target}
    twins = {c.twin for v in report.verdicts if v.target == target for c in v.comparisons}
    rows = [row for row in report.rows if row.target == target]
    chosen = [r for r in rows if r.artifact.digest in judged or (r.is_twin and r.artifact.variant in twins)]
    last = _last_stage([r for r in chosen if r.is_twin])
    return [r for r in chosen if not r.is_twin or r.artifact.stage == last] or rows


def _last_stage(rows: Sequence[Row]) -> str:
    """The furthest stage among rows; empty where there are none."""
    return max((row.artifact.stage for row in rows), key=stage_rank, default="")
