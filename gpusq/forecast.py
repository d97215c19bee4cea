"""Reports made of predictions alone: curves against batch, where compression pays, and the verdict."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpusq.artifacts import Artifact
    from gpusq.latency import Prediction
    from gpusq.latency.break_even import BreakEven
    from gpusq.latency.decisions import Decisions
    from gpusq.reports import Report, Row, Sweep
    from gpusq.targets import Target
    from gpusq.workload import Layer, Workload

SHOWN = (1, 8, 32, 128)
"""Batches whose speed-ups stand in the table of the page."""
_INDEX = re.compile(r"(?<=\.)\d+(?=[./]|$)")


def sweep_of_artifact(artifact: Artifact, target: Target) -> Sweep:
    """The predicted curves and break-even batches of an artifact on a target."""
    from gpusq.latency.decisions import EXAMINED, decide
    from gpusq.reports.compare import TWIN_ERROR_CORRELATION
    from gpusq.stages.layer_files import read_layers, read_workload

    workload, layers = read_workload(artifact), read_layers(artifact)
    found = decide(workload, layers, target, EXAMINED, correlation=TWIN_ERROR_CORRELATION)
    return sweep_of(found, target)


def sweep_of(decisions: Decisions, target: Target) -> Sweep:
    """Decisions as the report carries them: equal answers of equally named layers are one line."""
    from gpusq.latency.break_even import PLOTTED
    from gpusq.reports import Curve, Sweep, SweepPoint

    curves = tuple(
        Curve(
            variant=name,
            points=tuple(
                SweepPoint(batch=p.batch, ms=p.ms, low_ms=p.low_ms, high_ms=p.high_ms)
                for p in points
                if p.batch in (*PLOTTED, decisions.examined[0], decisions.examined[-1])
            ),
        )
        for name, points in decisions.curves.items()
    )
    payoffs = [_payoff([found], whole=True) for found in decisions.model]
    payoffs += [_payoff(group) for group in alike(decisions.layers)]
    examined = (decisions.examined[0], decisions.examined[-1])
    return Sweep(target=target.name, device=target.title, examined=examined, curves=curves, payoffs=tuple(payoffs))


def without_index(name: str) -> str:
    """A dotted name with a star for each block's index: "blocks.*.mlp.fc1" for every block."""
    return _INDEX.sub("*", name)


def alike(found: Sequence[BreakEven]) -> list[list[BreakEven]]:
    """Groups of layers whose names differ in the index of a block only and whose answers are equal."""
    groups: dict[tuple[Any, ...], list[BreakEven]] = {}
    for answer in found:
        same = (answer.change, answer.form, answer.batch, answer.sure_batch, answer.ranges)
        groups.setdefault((without_index(answer.layer), *same), []).append(answer)
    return list(groups.values())


def _payoff(group: Sequence[BreakEven], whole: bool = False) -> Any:
    from gpusq.reports import BatchGain, Payoff

    first = group[0]
    return Payoff(
        layers=() if whole else tuple(answer.layer for answer in group),
        change=first.change,
        form=first.form,
        against=first.against,
        batch=first.batch,
        sure_batch=first.sure_batch,
        ranges=first.ranges,
        gains=tuple(BatchGain(batch=g.batch, point=g.point, low=g.low, high=g.high) for g in first.shown(SHOWN)),
    )


def predicted_report(
    title: str,
    workload: Workload,
    layers: tuple[Layer, ...],
    predictions: dict[str, list[tuple[Prediction, Prediction]]],
    sweeps: Sequence[Sweep],
    targets: Sequence[Target],
    notes: Sequence[str] = (),
) -> Report:
    """A report on a model that was never built: rows of its form and, where that differs, of its dense twin.

    predictions: target name -> (as it is, its dense float twin) at each batch.
    """
    from gpusq.reports import build_report

    rows: list[Row] = []
    forms = tuple(dict.fromkeys(_forms(layers)))  # one where the model is its own twin
    for target in targets:
        for pair in predictions[target.name]:
            rows += [_row(found, form, workload, target) for found, form in zip(pair, forms, strict=False)]
    return build_report(title, rows, sweeps=sweeps, notes=notes)


def _forms(layers: tuple[Layer, ...]) -> tuple[tuple[Layer, ...], tuple[Layer, ...]]:
    from gpusq.latency.forms import in_form

    return layers, in_form(layers, sparse=False, int8=False)


def _row(found: Prediction, layers: tuple[Layer, ...], workload: Workload, target: Target) -> Row:
    from gpusq import __version__
    from gpusq.finishing.rows import form_of, variant_of
    from gpusq.reports import Row, coverage_of

    base = "fp32" if found.precision == "fp32" or not target.is_gpu else "fp16"
    precision, sparsity = form_of(layers, base)
    variant = variant_of(layers, base)
    digest = hashlib.sha256(repr((workload, layers)).encode()).hexdigest()
    return Row.model_validate(
        {
            "artifact": {"kind": "onnx", "digest": digest, "stage": "export", "variant": variant},
            "target": target.name,
            "batch": found.batch,
            "status": "predicted",
            "latency_ms": {"p50": found.latency_ms, "low": found.low_ms, "high": found.high_ms},
            "throughput_per_s": found.throughput_per_s,
            "precision": precision,
            "sparsity": sparsity,
            "runtime": "gpusq predictor",
            "input_shape": workload.input_shape,
            "coverage": coverage_of(workload, layers),
            "conditions": {
                "device": target.title,
                "power_mode": target.power_mode,
                "libraries": {"gpusq": __version__},
                "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            },
        }
    )
