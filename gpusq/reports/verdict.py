"""Is it worth shipping? One answer per target and compressed variant, against its dense twin.

"ship" needs three things at every batch asked for: a comparable dense twin, a speed-up whose lower bound reaches
`min_speedup` (and exceeds 1), and an accuracy that is known and within `max_drop`. "do not ship" needs one proof
against it: too large a drop, or no gain at any batch. Everything else is "undecided", with what is missing.
The twin that decides is the fastest dense one (usually FP16): beating FP32 alone proves little.
The drop is judged by its point value; where its interval is wider than `max_drop` the reason says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from gpusq.reports.accuracy_limits import accuracy_limits, unit_of
from gpusq.reports.compare import (
    ASSUMPTIONS,
    AccuracyChange,
    Bounds,
    Comparison,
    accuracy_change,
    compare,
    differences,
)
from gpusq.reports.rows import Positive, Row, Sealed, Status, Text

Decision = Literal["ship", "do not ship", "undecided"]
_ROUNDING = 1e-9  # points: 80.1 - 79.1 is a hair more than 1 in floating point
# How far along the chain an artifact is: only the furthest of a target is judged, the rest is history.
_RANK = {"dense": 0, "sparse": 1, "quantized": 2, "onnx": 3, "bundle": 4, "engine": 5}


class Criteria(Sealed):
    """What "worth shipping" means here.

    max_drop: accuracy that may be lost, in points. min_speedup: factor that the lower bound must reach.
    batches: the batches that matter; None takes all that the candidate has rows for.
    """

    max_drop: Annotated[float, Field(ge=0)] = 1.0
    min_speedup: Positive = 1.05
    batches: tuple[int, ...] | None = None


class Verdict(Sealed):
    """The answer for one (target, candidate) and all that it rests on.

    basis: whether the rows compared were measured or predicted. speedup: at the batch with the smallest lower
    bound. comparisons: every batch and every dense twin; the deciding ones are marked. refused: comparisons that
    were not made and why. size_ratio: dense FP32 bytes over the candidate's. next_step: what would settle it.
    """

    target: Text
    variant: Text
    digest: Text
    decision: Decision
    basis: Status
    reason: Text
    speedup: Bounds | None = None
    comparisons: tuple[Comparison, ...] = ()
    refused: tuple[str, ...] = ()
    accuracy: AccuracyChange | None = None
    size_ratio: Positive | None = None
    criteria: Criteria
    assumption: Text
    next_step: str = ""


def verdict(rows: Iterable[Row], criteria: Criteria | None = None) -> list[Verdict]:
    """One verdict per target and candidate, in the order of the rows. Without compressed rows: no verdicts."""
    criteria = criteria or Criteria()
    by_target: dict[str, list[Row]] = {}
    for row in rows:
        by_target.setdefault(row.target, []).append(row)
    found = []
    for mine in by_target.values():
        twins = _furthest([row for row in mine if row.is_twin])
        candidates: dict[tuple[str, str], list[Row]] = {}
        for row in _furthest([row for row in mine if not row.is_twin]):
            candidates.setdefault((row.artifact.variant, row.artifact.digest), []).append(row)
        found += [_judge(group, twins, criteria) for group in candidates.values()]
    return found


def _furthest(rows: list[Row]) -> list[Row]:
    """The rows of the artifacts that are furthest along the chain."""
    rank = max((_RANK.get(row.artifact.kind, 0) for row in rows), default=0)
    return [row for row in rows if _RANK.get(row.artifact.kind, 0) == rank]


def _judge(candidates: list[Row], twins: list[Row], criteria: Criteria) -> Verdict:
    """Compare what may be compared, then decide."""
    basis = _basis(candidates, twins)
    ours = [row for row in candidates if row.status == basis and _asked(row, criteria)]
    comparisons, refused = _comparisons(ours, [row for row in twins if row.status == basis])
    refused += _unasked(ours, criteria)
    deciding = [c for c in comparisons if c.deciding]
    change = _accuracy(candidates, twins, deciding)
    decision, reason = _decide(deciding, refused, change, criteria)
    if isinstance(change, AccuracyChange):
        reason = " ".join((reason, *accuracy_limits(change, criteria.max_drop)))
    first = candidates[0]
    return Verdict(
        target=first.target,
        variant=first.artifact.variant,
        digest=first.artifact.digest,
        decision=decision,
        basis=basis,
        reason=reason,
        speedup=min((c.speedup for c in deciding), key=lambda s: s.low, default=None),
        comparisons=tuple(comparisons),
        refused=tuple(refused),
        accuracy=change if isinstance(change, AccuracyChange) else None,
        size_ratio=next((row.size.ratio for row in candidates if row.size), None),
        criteria=criteria,
        assumption=ASSUMPTIONS[basis],
        next_step=_next_step(decision, basis, first.target),
    )


def _basis(candidates: list[Row], twins: list[Row]) -> Status:
    """Measured where both sides have measured rows, else predicted where both have, else what the candidate has."""
    ours, theirs = {row.status for row in candidates}, {row.status for row in twins}
    shared = ours & theirs or ours
    return "measured" if "measured" in shared else "predicted"


def _asked(row: Row, criteria: Criteria) -> bool:
    return criteria.batches is None or row.batch in criteria.batches


def _unasked(rows: list[Row], criteria: Criteria) -> list[str]:
    """Batches that the criteria name and the candidate has no row for."""
    have = {row.batch for row in rows}
    return [f"batch {b}: the candidate has no such row" for b in criteria.batches or () if b not in have]


def _comparisons(candidates: list[Row], twins: list[Row]) -> tuple[list[Comparison], list[str]]:
    """All comparisons by batch, the fastest twin of each batch marked, and those refused with the reason."""
    made: list[Comparison] = []
    refused: list[str] = []
    for batch in sorted({row.batch for row in candidates}):
        ours = [row for row in candidates if row.batch == batch]
        here: list[Comparison] = []
        for variant in dict.fromkeys(row.artifact.variant for row in twins):
            theirs = [row for row in twins if row.batch == batch and row.artifact.variant == variant]
            if not theirs:
                continue
            candidate, twin = _closest(ours, theirs)
            found = differences(candidate, twin)
            if found or candidate.conditions.throttled:
                refused.append(f"batch {batch}, {variant}: {'; '.join(found) or 'the device throttled'}")
            else:
                here.append(compare(candidate, twin))
        if not here and not any(line.startswith(f"batch {batch},") for line in refused):
            refused.append(f"batch {batch}: no {ours[0].status} row of a dense twin")
        fastest = min(here, key=lambda c: c.twin_ms, default=None)
        made += [c.model_copy(update={"deciding": c is fastest}) for c in here]
    return made, refused


def _closest(ours: list[Row], theirs: list[Row]) -> tuple[Row, Row]:
    """The pair with the fewest differences; the latest among equals."""
    pairs = sorted(
        ((a, b) for a in ours for b in theirs), key=lambda p: (p[0].conditions.date, p[1].conditions.date), reverse=True
    )
    return min(pairs, key=lambda pair: len(differences(*pair)))


def _accuracy(candidates: list[Row], twins: list[Row], deciding: list[Comparison]) -> AccuracyChange | str:
    """Accuracy against the deciding twin, else against any twin that has one."""
    names = {c.twin for c in deciding}
    twins = sorted(twins, key=lambda row: (row.artifact.variant not in names, row.accuracy is None))
    candidates = sorted(candidates, key=lambda row: row.accuracy is None)
    if not twins:
        return "there is no dense twin to compare the accuracy with"
    return accuracy_change(candidates[0], twins[0])


def _decide(
    deciding: list[Comparison], refused: list[str], change: AccuracyChange | str, criteria: Criteria
) -> tuple[Decision, str]:
    """The decision and one sentence; proofs against come first, then what is missing, then the gain."""
    need = max(criteria.min_speedup, 1.0)
    if isinstance(change, AccuracyChange) and -change.points > criteria.max_drop + _ROUNDING:
        return "do not ship", f"{_drop(change)}, more than the {criteria.max_drop:g} points allowed."
    if deciding and all(c.speedup.high <= need for c in deciding) and not refused:
        best = max(deciding, key=lambda c: c.speedup.point)
        return "do not ship", f"At no batch is it {need:g}x as fast as {best.twin}: at best {_at(best)}."
    missing = _missing(refused, change, criteria)
    if missing or isinstance(change, str):
        return "undecided", missing
    sure = [c for c in deciding if c.speedup.low >= need and c.speedup.low > 1]
    if deciding and len(sure) == len(deciding):
        return "ship", f"{_gain(deciding)}; {_drop(change)} (allowed: {criteria.max_drop:g})."
    unsure = [c for c in deciding if c not in sure]
    worst = min(unsure, key=lambda c: c.speedup.low)
    start = f"{_gain(sure)}, but not surely" if sure else f"The bounds do not prove {need:g}x over {worst.twin}"
    return "undecided", f"{start} at {_batches(unsure)}: {_at(worst)}."


def _missing(refused: list[str], change: AccuracyChange | str, criteria: Criteria) -> str:
    """The sentence that says what is missing for a decision; empty where nothing is."""
    if refused:
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        return f"Not comparable: {refused[0]}{more}."
    if isinstance(change, str):
        return f"{change[0].upper()}{change[1:]}."
    if 100 / change.n > criteria.max_drop:
        return f"{change.n} {unit_of(change.metric)} cannot resolve a drop of {criteria.max_drop:g} points."
    return ""


def _gain(comparisons: list[Comparison]) -> str:
    """ "1.31x to 1.62x as fast as dense-fp16 at batch 1, 8"."""
    points = sorted(c.speedup.point for c in comparisons)
    span = f"{points[0]:.2f}x" if len(points) == 1 else f"{points[0]:.2f}x to {points[-1]:.2f}x"
    twins = " and ".join(dict.fromkeys(c.twin for c in comparisons))
    return f"{span} as fast as {twins} at {_batches(comparisons)}"


def _batches(comparisons: list[Comparison]) -> str:
    return "batch " + ", ".join(str(c.batch) for c in comparisons)


def _at(comparison: Comparison) -> str:
    s = comparison.speedup
    return f"{s.point:.2f}x at batch {comparison.batch} (bounds {s.low:.2f} to {s.high:.2f})"


def _drop(change: AccuracyChange) -> str:
    """ "top1 falls by 0.12 points"."""
    verb = "falls by" if change.points < 0 else "rises by"
    return f"{change.metric} {verb} {abs(change.points):.2f} points"


def _next_step(decision: Decision, basis: Status, target: str) -> str:
    """What would settle it, or confirm it."""
    if basis == "predicted":
        return (
            f"A prediction. Finish both bundles on {target} itself (gpusq build BUNDLE --twin TWIN --receipt FILE), "
            "then gpusq import FILE here."
        )
    if decision == "undecided":
        return "Measure both twins again in one run, under equal conditions and with more repeats."
    return ""
