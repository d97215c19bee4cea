"""How `gpusq predict` and `gpusq calibrate` show what they found: tables, CSV, one JSON document, a page."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpusq.cli.latency_decisions import decision_table, verdict_lines
from gpusq.cli.latency_subjects import operators
from gpusq.cli.output import print_line, print_table

if TYPE_CHECKING:
    from gpusq.cli.latency_subjects import Subject
    from gpusq.latency import Prediction
    from gpusq.latency.calibrate import Calibration
    from gpusq.latency.decisions import Decisions
    from gpusq.targets import Target

Found = dict[str, list["Prediction"]]
TOP = 12
SCALED = "scaled peak"


def rows_table(rows: Sequence[dict[str, Any]]) -> Any:
    """A rich table of answered questions, a row's sizes in one column."""
    from rich.table import Table

    from gpusq.reports.view import figure

    table = Table(title="predicted, with 90 % intervals", title_justify="left")
    for name in ("kind", "device", "dtype", "sparsity", "sizes", "us", "90 % interval", "bound"):
        table.add_column(name, justify="right" if name in ("us", "90 % interval") else "left", overflow="fold")
    for row in rows:
        interval = f"{figure(row['low_us'])} to {figure(row['high_us'])}"
        words = (row[name] for name in ("kind", "device", "dtype", "sparsity"))
        bound = f"{row['bound']} ({SCALED})" if row.get("scaled") else row["bound"]
        table.add_row(*words, _sizes(row), f"~{figure(row['latency_us'])}", interval, bound)
    return table


def _sizes(row: dict[str, Any]) -> str:
    if row["kind"] == "gemm":
        return f"{row['m']}x{row['n']}x{row['k']}"
    block = f"{row['layers']} x {row['width']}, {row['heads']} heads, mlp {row['mlp']}"
    return f"{block}, {row['tokens']} tokens, batch {row['batch']}"


def write_rows(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The rows as CSV, with the union of their columns."""
    from gpusq.latency.table import columns_of

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns_of(rows), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def model_rows(subject: Subject, found: Found) -> list[dict[str, Any]]:
    """One row for each target and batch."""
    from gpusq.latency.table import main_bound

    return [
        {
            "model": subject.title,
            "device": target,
            "batch": run.batch,
            "precision": run.precision,
            "throughput_per_s": float(f"{run.throughput_per_s:.6g}"),
            "latency_us": float(f"{1e3 * run.latency_ms:.6g}"),
            "low_us": float(f"{1e3 * run.low_ms:.6g}"),
            "high_us": float(f"{1e3 * run.high_ms:.6g}"),
            "bound": main_bound(run),
        }
        for target, runs in found.items()
        for run in runs
    ]


def model_document(subject: Subject, found: Found, decisions: Sequence[Decisions]) -> dict[str, Any]:
    """Everything as plain data."""
    layers = subject.layers
    document: dict[str, Any] = {
        "status": "predicted",
        "model": {
            "title": subject.title,
            "kind": subject.kind,
            "macs": subject.workload.macs,
            "parameters": subject.workload.parameters,
            "input_shape": list(subject.workload.input_shape),
            "layers": len(layers),
            "sparse_layers": sum(layer.sparse for layer in layers),
            "int8_layers": sum(layer.int8 for layer in layers),
            "precision": subject.precision,
        },
        "unknown_operators": subject.unknown,
        "notes": list(subject.notes),
        "rows": [
            {**row, "operators": operators(run)}
            for row, run in zip(model_rows(subject, found), [r for runs in found.values() for r in runs], strict=True)
        ],
    }
    return document | ({"decisions": [d.to_json() for d in decisions]} if decisions else {})


def print_model(subject: Subject, found: Found, decisions: Sequence[Decisions], all_layers: bool) -> None:
    """The model, its latencies, its layers at the last batch, and where compression pays."""
    layers = subject.layers
    print_line(
        f"{subject.title}: {subject.workload.macs / 1e9:.3g} GMAC an image, {len(layers)} GEMM layers, "
        f"{sum(x.sparse for x in layers)} of them 2:4, {sum(x.int8 for x in layers)} INT8"
    )
    for name, count in subject.unknown.items():
        print_line(f"unknown operator, counted as memory-bound: {name} x{count}")
    for note in subject.notes:
        print_line(f"note: {note}")
    print_table(_latency_table(found))
    for target, runs in found.items():
        print_table(_layer_table(target, runs[-1], all_layers))
    for decision in decisions:
        print_table(decision_table(decision))
        for line in verdict_lines(decision, [run.batch for run in found[decision.target]]):
            print_line(line)


def _latency_table(found: Found) -> Any:
    from rich.table import Table

    from gpusq.latency.table import main_bound
    from gpusq.reports.view import figure

    table = Table(title="predicted latency, with 90 % intervals", title_justify="left")
    for name in ("target", "batch", "ms", "90 % interval", "images/s", "precision", "mostly bound by"):
        table.add_column(name, justify="left" if name in ("target", "precision", "mostly bound by") else "right")
    for target, runs in found.items():
        for run in runs:
            interval = f"{figure(run.low_ms)} to {figure(run.high_ms)}"
            rate = f"~{figure(run.throughput_per_s)}"
            table.add_row(
                target, str(run.batch), f"~{figure(run.latency_ms)}", interval, rate, run.precision, main_bound(run)
            )
    return table


def _layer_table(target: str, run: Prediction, all_layers: bool) -> Any:
    """Operators by time, then the engine's start; those whose names differ only in a block's index are added up."""
    from rich.table import Table

    from gpusq.forecast import without_index
    from gpusq.reports.view import figure, percent

    table = Table(title=f"{target}, batch {run.batch}: predicted time by operator", title_justify="left")
    for name in ("operator", "us", "90 % interval", "bound", "share"):
        table.add_column(name, justify="left" if name in ("operator", "bound") else "right", overflow="fold")
    whole = 1e3 * run.latency_ms or 1.0
    groups: dict[tuple[str, str], list[Any]] = {}
    for op in run.ops:
        groups.setdefault((op.name if all_layers else without_index(op.name), op.bound), []).append(op)
    ranked = (
        list(groups.items()) if all_layers else sorted(groups.items(), key=lambda item: -sum(o.us for o in item[1]))
    )
    for (name, bound), mine in ranked if all_layers else ranked[:TOP]:
        us, low, high = (sum(getattr(op, key) for op in mine) for key in ("us", "low_us", "high_us"))
        label = f"{name} x{len(mine)}" if len(mine) > 1 else name
        table.add_row(label, f"~{figure(us)}", f"{figure(low)} to {figure(high)}", bound, percent(us / whole))
    if not all_layers and len(ranked) > TOP:
        rest = [op for _, mine in ranked[TOP:] for op in mine]
        us = sum(op.us for op in rest)
        table.add_row(f"{len(rest)} further", f"~{figure(us)}", "", "", percent(us / whole))
    rest_us = run.rest
    interval = f"{figure(rest_us.low_us)} to {figure(rest_us.high_us)}"
    table.add_row(rest_us.name, f"~{figure(rest_us.us)}", interval, rest_us.bound, percent(rest_us.us / whole))
    return table


def write_page(
    subject: Subject, found: Found, decisions: Sequence[Decisions], targets: Sequence[Target], base: str, path: Path
) -> None:
    """The report page of a model that was only predicted; base: that of `found`."""
    from dataclasses import replace

    from gpusq.forecast import predicted_report, sweep_of
    from gpusq.latency.forms import in_form
    from gpusq.reports import html_page

    twin = replace(subject, layers=in_form(subject.layers, sparse=False, int8=False))
    pairs = {
        name: [(run, twin.predict(target, run.batch, base)) for run in found[name]]
        for name, target in ((target.name, target) for target in targets)
    }
    sweeps = [sweep_of(decision, target) for decision, target in zip(decisions, targets, strict=True)]
    notes = [*subject.notes, *(f"unknown operator: {name} x{n}" for name, n in subject.unknown.items())]
    report = predicted_report(subject.title, subject.workload, subject.layers, pairs, sweeps, targets, notes)
    path.write_text(html_page(report), encoding="utf-8")


def print_calibration(result: Calibration, out: Path) -> None:
    """What was fitted and how far off it is on rows that the fit did not see."""
    from rich.table import Table

    table = Table(title=f"{result.title}: {result.source}", title_justify="left")
    for name in ("path", "rows", "before", "fitted rows", "held out", "90 % interval"):
        table.add_column(name, justify="left" if name == "path" else "right")
    for path in result.paths:
        shares = (path.before, path.fitted, path.held_out)
        spread = f"x / {path.interval:.2f}"
        table.add_row(
            path.key,
            str(path.rows),
            *("not known" if share is None else f"{100 * share:.1f} %" for share in shares),
            spread,
        )
    print_table(table)
    print_line(f"before, fitted, held out: mean absolute error; held out: {result.how}")
    for words, keys in _choices(result):
        if keys:
            print_line(f"{words}: {', '.join(keys)}")
    for note in result.notes:
        print_line(f"note: {note}")
    print_line(f"written: {out}; use it as --target {out}")


def _choices(result: Calibration) -> list[tuple[str, list[str]]]:
    """What was decided, in words -> the paths concerned."""
    from gpusq.latency.calibrate import TEXTBOOK_PRIOR
    from gpusq.latency.held_out import FEWEST

    kept = [path for path in result.paths if path.kept_prior]
    anew = [path.key for path in result.paths if path.prior == TEXTBOOK_PRIOR]
    return [
        ("fitted from textbook values, better on held-out rows than from the target's own", anew),
        ("parameters kept as they were, since no fit did better on held-out rows", [p.key for p in kept if p.tried]),
        (
            f"parameters kept as they were, since a fit needs {FEWEST} held-out rows",
            [p.key for p in kept if not p.tried],
        ),
    ]
