"""Is a receipt good enough to release? Built, accurate, sparse, and no slower than the last release's.

Nothing passes by being absent: what a receipt does not say is "unknown", which is not a pass, and a target without a
receipt is "not built".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from gpusq.engines.receipts.findings import FALLBACK
from gpusq.finishing import Receipt
from gpusq.finishing.receipt_file import MEASURED, BuiltEngine
from gpusq.matrix import Gates
from gpusq.reports import Report, Row
from gpusq.reports.rows import UNKNOWN_POWER_MODE

Outcome = Literal["pass", "fail", "unknown", "not asked"]
State = Literal["pass", "fail", "not built"]

UNSCORED = "what compression cost is not in it: no report gives both accuracies"


def with_accuracies(receipt: Receipt, reports: Iterable[Report]) -> Receipt:
    """The receipt with the accuracies that reports of the host give its engines; a device has no labelled images."""
    known = {row.artifact.digest: row.accuracy for report in reports for row in report.rows if row.accuracy}
    rows = [row.model_copy(update={"accuracy": known.get(row.artifact.digest, row.accuracy)}) for row in receipt.rows]
    return receipt.model_copy(update={"rows": tuple(rows)})


@dataclass(frozen=True)
class Finding:
    """One gate: what was seen beside what was asked."""

    gate: str
    outcome: Outcome
    seen: str

    def to_json(self) -> dict[str, str]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Judged:
    """One engine held to its limits. id: of its job, or its target. state: pass only where every gate that was asked
    passed."""

    id: str
    target: str
    state: State
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def judge(name: str, target: str, receipt: Receipt | None, baseline: Receipt | None, limits: Gates) -> Judged:
    """Hold one receipt to its limits; without a receipt the engine is not built, and a failed build is a failure."""
    if receipt is None:
        return Judged(name, target, "not built", (Finding("built", "fail", "no receipt came"),))
    if receipt.failure is not None and receipt.target == target:
        return Judged(name, target, "fail", (Finding("built", "fail", f"{receipt.failure} ({receipt.date})"),))
    engine = next((e for e in receipt.engines if e.role == "model"), None)
    problem = _not_an_engine(target, receipt, engine)
    if engine is None or problem:
        return Judged(name, target, "not built", (Finding("built", "fail", problem),))
    findings = (
        Finding("built", "pass", f"{engine.place.get('builder')} {engine.place.get('library')}, {receipt.date}"),
        _accuracy(receipt, engine, limits.max_drop),
        _precision(engine),
        _sparsity(engine, limits.min_sparse),
        _regression(receipt, engine, baseline, limits.max_regression),
    )
    passed = all(f.outcome in ("pass", "not asked") for f in findings)
    return Judged(name, target, "pass" if passed else "fail", findings)


def _not_an_engine(target: str, receipt: Receipt, engine: BuiltEngine | None) -> str:
    """Why this receipt is of no engine that could be released; empty where it is."""
    if receipt.target != target:
        return f"the receipt is of {receipt.target}"
    if engine is None:
        return "the receipt names no engine of the model"
    if engine.stand_in:
        return engine.stand_in
    return "" if receipt.status == MEASURED else f"built, {receipt.status}"


def _rows(receipt: Receipt, engine: BuiltEngine) -> dict[int, Row]:
    """Batch to row of one engine."""
    return {row.batch: row for row in receipt.rows if row.artifact.digest == engine.engine}


def _accuracy(receipt: Receipt, engine: BuiltEngine, max_drop: float) -> Finding:
    """The output gate on the device, and the accuracy lost to the dense twin where both were scored."""
    gate = engine.gate
    if gate is None:
        return Finding("accuracy", "unknown", "the outputs were not compared")
    figures = ", ".join(f"{name} {value:.4g}" for name, value in gate["figures"].items())
    if not gate["passed"]:
        return Finding("accuracy", "fail", f"{figures} on {gate['n']} samples")
    drop, how = _drop(receipt, engine, gate)
    if drop is None:
        return Finding("accuracy", "pass", f"outputs as expected ({figures} on {gate['n']} samples); {UNSCORED}")
    seen = f"{drop:.2f} points {how}, {max_drop:g} allowed; {figures} on {gate['n']} samples"
    return Finding("accuracy", "pass" if drop <= max_drop + 1e-9 else "fail", seen)


def _drop(receipt: Receipt, engine: BuiltEngine, gate: Mapping[str, Any]) -> tuple[float | None, str]:
    """(points lost, against what): to the twin where both have an accuracy, else to the host's answers."""
    twin = next((e for e in receipt.engines if e.role == "dense twin"), None)
    own = [row.accuracy for row in _rows(receipt, engine).values() if row.accuracy]
    its = [row.accuracy for row in _rows(receipt, twin).values() if row.accuracy] if twin else []
    if own and its and (own[0].metric, own[0].split, own[0].n) == (its[0].metric, its[0].split, its[0].n):
        return 100 * (its[0].value - own[0].value), f"of {own[0].metric} below the dense twin"
    agreement = gate["figures"].get("top1_agreement")
    how = f"of answers differ from the host's ({UNSCORED})"
    return (None, "") if agreement is None else (100 * (1 - float(agreement)), how)


def _sparsity(engine: BuiltEngine, least: float) -> Finding:
    """The share of GEMM time that sparse kernels took on the device; a share of anything else is no proof."""
    if least <= 0:
        return Finding("sparsity", "not asked", "no least share")
    shares = engine.layers.shares
    if shares is None or shares.basis != "time":
        basis = "no shares" if shares is None else f"a share of {shares.basis}, not of time"
        return Finding("sparsity", "unknown", f"the receipt has {basis}; {least:.0%} of GEMM time asked")
    outcome: Outcome = "pass" if shares.sparse >= least else "fail"
    hidden = f" (and {shares.sparse_hidden:.1%} where the kernel is not shown)" if shares.sparse_hidden else ""
    return Finding("sparsity", outcome, f"{shares.sparse:.1%} of GEMM time in 2:4 kernels{hidden}, {least:.0%} asked")


def _precision(engine: BuiltEngine) -> Finding:
    """What the layer receipt itself calls a failure: layers in another precision than the graph asks for."""
    wrong = [f.text for f in engine.layers.findings if f.severity == "fail"]
    if wrong:
        return Finding("precision", "fail", "; ".join(wrong))
    shares = engine.layers.shares
    if shares is None or shares.full_float + shares.precision_hidden >= FALLBACK:  # what fails may be in what is hidden
        hidden = "no layers" if shares is None else f"no precision for {shares.precision_hidden:.0%} of the work"
        return Finding("precision", "unknown", f"the engine shows {hidden}")
    return Finding("precision", "pass", "the engine runs what its graph asks for, as far as its layers show")


def _regression(receipt: Receipt, engine: BuiltEngine, baseline: Receipt | None, allowed: float) -> Finding:
    """Each batch against the baseline's, under the same conditions; noise decides for the engine only where it may."""
    if baseline is None:
        return Finding("regression", "not asked", "no baseline: this is the first release of this engine")
    before = next((e for e in baseline.engines if e.role == "model"), None)
    old = _rows(baseline, before) if before and baseline.target == receipt.target else {}
    new = _rows(receipt, engine)
    shared = sorted(old.keys() & new.keys())
    if not shared:
        return Finding("regression", "unknown", "the baseline has no row of the same target and batch")
    differing = [d for b in shared for d in _conditions(old[b], new[b])]
    if differing:
        return Finding("regression", "unknown", f"not comparable: {differing[0]}")
    notes = [_slower(old[b], new[b], allowed) for b in shared]
    outcome: Outcome = "fail" if any(bad for bad, _ in notes) else "pass"
    return Finding("regression", outcome, "; ".join(note for _, note in notes))


def _conditions(old: Row, new: Row) -> list[str]:
    """What must be equal before two times may be compared; library versions may differ, that is what is tested."""
    pairs = {
        "device": (old.conditions.device, new.conditions.device),
        "power mode": (old.conditions.power_mode, new.conditions.power_mode),
        "input": (old.input_shape, new.input_shape),
    }
    found = [f"{what} {a} then, {b} now" for what, (a, b) in pairs.items() if a != b]
    if old.conditions.power_mode == new.conditions.power_mode == UNKNOWN_POWER_MODE:
        found.append(f"{UNKNOWN_POWER_MODE}, then and now")
    return found + [f"throttled {when}" for when, row in (("then", old), ("now", new)) if row.conditions.throttled]


def _slower(old: Row, new: Row, allowed: float) -> tuple[bool, str]:
    """(regressed, a line): slower by more than allowed, and by more than the bounds of both medians explain."""
    change = new.latency_ms.p50 / old.latency_ms.p50 - 1
    low = new.latency_ms.noise_low or new.latency_ms.p50
    high = old.latency_ms.noise_high or old.latency_ms.p50
    bad = change > allowed and low > high
    return bad, f"batch {new.batch}: {old.latency_ms.p50:.3f} -> {new.latency_ms.p50:.3f} ms ({change:+.1%})"


def judge_all(
    jobs: Iterable[Mapping[str, Any]], receipts: Mapping[str, Receipt], baselines: Mapping[str, Receipt]
) -> list[Judged]:
    """Every job of `matrix.build_jobs`, by its id."""
    fields = Gates.model_fields
    return [
        judge(
            str(job["id"]),
            str(job["target"]),
            receipts.get(str(job["id"])),
            baselines.get(str(job["id"])),
            Gates.model_validate({name: job[name] for name in fields}),
        )
        for job in jobs
    ]


def passed(judged: Sequence[Judged]) -> bool:
    """Whether there is at least one engine and every one passed."""
    return bool(judged) and all(each.state == "pass" for each in judged)


def summary(judged: Sequence[Judged]) -> str:
    """A Markdown table: an engine a line, "not built" in words."""
    lines = ["| engine | target | result | why |", "|---|---|---|---|"]
    for each in judged:
        why = "; ".join(f"{f.gate}: {f.outcome}, {f.seen}" for f in each.findings).replace("|", "\\|")
        lines.append(f"| {each.id} | {each.target} | **{each.state}** | {why} |")
    return "\n".join(lines) + "\n"
