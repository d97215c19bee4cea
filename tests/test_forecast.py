"""Forecasts: the report of a run carries curves for the targets that are not at hand, and no others."""

from __future__ import annotations

import pytest

from gpusq.forecast import alike, predicted_report, sweep_of, sweep_of_artifact
from gpusq.latency import encoder_layers, encoder_workload, predict
from gpusq.latency.decisions import decide
from gpusq.latency.forms import in_form
from gpusq.targets import load_target
from tests.chain import Chain

VIT = encoder_workload(3, 768, 12, 3072, 197, 768, 196)


def test_the_report_of_a_run_has_curves_of_its_predicted_targets(chain: Chain) -> None:
    sweeps = chain.result.report.sweeps
    assert [sweep.target for sweep in sweeps] == ["a100-40gb", "agx-orin-64gb"]
    for sweep in sweeps:
        assert sweep.status == "predicted"
        assert {curve.variant for curve in sweep.curves} == {"dense-fp16", "sparse-fp16", "dense-int8", "sparse-int8"}
        assert any(not payoff.layers for payoff in sweep.payoffs)


def test_the_compressed_curve_is_that_of_the_rows(chain: Chain) -> None:
    target = load_target("a100")
    sweep = sweep_of_artifact(chain.artifact("build", target="a100-40gb"), target)
    (curve,) = (c for c in sweep.curves if c.variant == "sparse-int8")
    rows = {
        row.batch: row.latency_ms.p50
        for row in chain.result.report.rows
        if row.target == target.name and row.artifact.kind == "bundle" and row.artifact.variant == "sparse-int8"
    }
    points = {p.batch: p.ms for p in curve.points}
    shared = set(rows) & set(points)
    assert shared
    for batch in shared:
        assert points[batch] == pytest.approx(rows[batch])


def test_equal_blocks_are_one_line_and_different_layers_are_not() -> None:
    found = decide(VIT, encoder_layers(VIT), load_target("a100"), (1, 8, 64))
    groups = alike(found.layers)
    names = {(group[0].layer, group[0].change): len(group) for group in groups}
    assert names["blocks.0.mlp.fc1", "2:4"] == 3
    assert names["blocks.0.mlp.fc2", "2:4"] == 3
    assert sum(names.values()) == len(found.layers)
    sweep = sweep_of(found, load_target("a100"))
    assert sum(len(payoff.layers) for payoff in sweep.payoffs) == len(found.layers)


def test_a_report_from_predictions_alone_has_a_verdict_on_the_twin() -> None:
    target = load_target("a100")
    layers = encoder_layers(VIT, sparse=True, int8=True)
    twin = in_form(layers, sparse=False, int8=False)
    pairs = [(predict(VIT, layers, target, b), predict(VIT, twin, target, b)) for b in (1, 64)]
    report = predicted_report("a file", VIT, layers, {target.name: pairs}, [], [target])
    assert {row.status for row in report.rows} == {"predicted"}
    (verdict,) = report.verdicts
    assert verdict.variant == "sparse-int8"
    assert {c.twin for c in verdict.comparisons} == {"dense-fp16"}
    assert verdict.decision != "ship"  # its accuracy is not known


def test_a_dense_float_model_is_its_own_twin_and_listed_once() -> None:
    target = load_target("a100")
    layers = encoder_layers(VIT)
    pairs = [(predict(VIT, layers, target, b), predict(VIT, layers, target, b)) for b in (1, 64)]
    report = predicted_report("a file", VIT, layers, {target.name: pairs}, [], [target])
    assert [row.batch for row in report.rows] == [1, 64]
