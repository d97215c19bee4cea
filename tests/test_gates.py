"""Gates: what may be released. Absent is never a pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from gpusq.cli.main import app
from gpusq.finishing import Receipt, write_receipt
from gpusq.gates import Judged, judge, judge_all, passed, summary, with_accuracies
from gpusq.matrix import Gates, build_jobs, parse_matrix
from tests.receipts import SHARE, engine, layers, receipt, row
from tests.reports.sample import sample_report

LIMITS = Gates(max_drop=1.0, min_sparse=0.5, max_regression=0.05)
GOOD = receipt(row(1.0), row(5.0, batch=8))


def judged(found: Receipt | None, baseline: Receipt | None = GOOD, **limits: float) -> Judged:
    return judge("vit-a100", "a100-40gb", found, baseline, LIMITS.model_copy(update=limits))


def outcome(found: Judged, gate: str) -> str:
    return next(f.outcome for f in found.findings if f.gate == gate)


def test_a_good_receipt_passes_every_gate() -> None:
    found = judged(GOOD)
    assert found.state == "pass"
    assert {f.gate: f.outcome for f in found.findings} == {
        "built": "pass",
        "accuracy": "pass",
        "precision": "pass",
        "sparsity": "pass",
        "regression": "pass",
    }


def stand_in() -> Receipt:
    return receipt(status="not run: no GPU", engines=[engine(stand_in="built for 8.6, not 8.7", gate=None)])


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (None, "no receipt came"),
        (receipt(status="not run: no GPU here", engines=[engine(gate=None)]), "not run: no GPU here"),
        (stand_in(), "built for 8.6"),
        (receipt(row(1.0), engines=[engine(role="dense twin")]), "no engine of the model"),
        (receipt(target="agx-orin-64gb"), "is of agx-orin-64gb"),
    ],
)
def test_what_did_not_run_on_its_target_is_not_built(found: Receipt | None, why: str) -> None:
    got = judged(found)
    assert got.state == "not built"
    assert why in got.findings[0].seen
    assert not passed([got])


def test_a_failed_or_missing_output_comparison_does_not_pass() -> None:
    gate = engine()["gate"]
    assert outcome(judged(receipt(row(1.0), engines=[engine(gate=gate | {"passed": False})])), "accuracy") == "fail"
    missing = judged(receipt(row(1.0), engines=[engine(gate=None)]))
    assert (outcome(missing, "accuracy"), missing.state) == ("unknown", "fail")


@pytest.mark.parametrize(("agreement", "state"), [(0.99, "pass"), (0.985, "fail"), (1.0, "pass")])
def test_disagreement_with_the_host_counts_as_lost_accuracy(agreement: float, state: str) -> None:
    gate = engine()["gate"] | {"figures": {"relative_error": 0.01, "top1_agreement": agreement}}
    assert outcome(judged(receipt(row(1.0), engines=[engine(gate=gate)])), "accuracy") == state


@pytest.mark.parametrize(("own", "twin", "state"), [(0.801, 0.81, "pass"), (0.79, 0.81, "fail"), (0.82, 0.81, "pass")])
def test_measured_accuracies_decide_where_both_are_there(own: float, twin: float, state: str) -> None:
    engines = [engine(), engine(role="dense twin", digest="e2")]
    rows = [row(1.0, accuracy=own), row(2.0, engine="e2", accuracy=twin)]
    assert outcome(judged(receipt(*rows, engines=engines)), "accuracy") == state


def test_the_hosts_report_brings_the_accuracies_that_a_device_cannot_know() -> None:
    engines = [engine(), engine(role="dense twin", digest="e2")]
    sent = receipt(row(1.0), row(2.0, engine="e2"), engines=engines)
    assert "what compression cost is not in it" in judged(sent).findings[1].seen
    scored = receipt(row(1.0, accuracy=0.1), row(2.0, engine="e2", accuracy=0.81), engines=engines).rows
    known = sample_report().model_copy(update={"rows": scored})
    found = judged(with_accuracies(sent, [known]))
    assert (outcome(found, "accuracy"), found.state) == ("fail", "fail")
    assert "71.00 points of top1 below the dense twin" in found.findings[1].seen
    assert judged(with_accuracies(sent, [])) == judged(sent)


def test_a_task_without_agreement_passes_on_its_own_gate() -> None:
    gate = {"task": "tensors", "n": 9, "figures": {"relative_error_boxes": 0.01}, "limits": {}, "passed": True}
    assert outcome(judged(receipt(row(1.0), engines=[engine(gate=gate)])), "accuracy") == "pass"


@pytest.mark.parametrize(
    ("share", "basis", "least", "expected"),
    [
        (0.5, "time", 0.5, "pass"),
        (0.49, "time", 0.5, "fail"),
        (0.9, "macs", 0.5, "unknown"),  # what was not timed proves nothing
        (0.0, "macs", 0.0, "not asked"),
    ],
)
def test_the_sparse_share(share: float, basis: str, least: float, expected: str) -> None:
    found = judged(receipt(row(1.0), engines=[engine(layers=layers(share, basis))]), min_sparse=least)
    assert outcome(found, "sparsity") == expected
    assert (found.state == "pass") == (expected in ("pass", "not asked"))


@pytest.mark.parametrize(("severity", "state"), [("fail", "fail"), ("warn", "pass"), ("note", "pass")])
def test_layers_in_another_precision_fail(severity: str, state: str) -> None:
    finding = {"kind": "fp32 fallback", "severity": severity, "text": "3 layers run in FP32"}
    found = judged(receipt(row(1.0), engines=[engine(layers=layers(findings=[finding]))]))
    assert (outcome(found, "precision"), found.state) == (state, state)


@pytest.mark.parametrize(("hidden", "expected"), [(0.1, "pass"), (0.5, "unknown"), (1.0, "unknown")])
def test_a_precision_that_is_hidden_is_not_a_pass(hidden: float, expected: str) -> None:
    shown = layers()
    shown["shares"] |= {"precision_hidden": hidden}
    found = judged(receipt(row(1.0), engines=[engine(layers=shown)]))
    assert outcome(found, "precision") == expected
    assert (found.state == "pass") == (expected == "pass")


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ([row(1.04)], "pass"),  # within what is allowed
        ([row(1.2)], "fail"),
        ([row(1.0), row(6.5, batch=8)], "fail"),  # any batch
        ([row(0.7)], "pass"),
        ([row(1.0, batch=3)], "unknown"),  # nothing to compare with
        ([row(1.2, conditions={"power_mode": "250 W"})], "unknown"),
        ([row(1.0, conditions={"power_mode": "power mode unknown"})], "unknown"),
        ([row(1.0, conditions={"throttled": True})], "unknown"),
        ([row(1.0, conditions={"device": "NVIDIA A100 80GB PCIe"})], "unknown"),
    ],
)
def test_regression_against_the_last_release(now: list[dict[str, Any]], expected: str) -> None:
    found = judged(receipt(*now))
    assert outcome(found, "regression") == expected
    assert (found.state == "pass") == (expected == "pass")


def test_two_unknown_power_modes_are_not_one_power_mode() -> None:
    unknown = receipt(row(1.2, conditions={"power_mode": "power mode unknown"}))
    found = judged(unknown, baseline=unknown)
    assert (outcome(found, "regression"), found.state) == ("unknown", "fail")


def test_noise_explains_a_small_slowdown() -> None:
    wide = {"p50": 1.1, "p90": 1.3, "p99": 1.4, "n": 20, "warmup": 5, "noise_low": 0.95, "noise_high": 1.25}
    assert outcome(judged(receipt(row(1.0, latency_ms=wide))), "regression") == "pass"


def test_the_first_release_has_no_baseline() -> None:
    found = judged(GOOD, baseline=None)
    assert (outcome(found, "regression"), found.state) == ("not asked", "pass")


@given(st.floats(0.1, 100), st.floats(0.1, 100))
def test_a_regression_is_never_seen_in_both_directions(a: float, b: float) -> None:
    there, back = judged(receipt(row(a)), receipt(row(b))), judged(receipt(row(b)), receipt(row(a)))
    assert "pass" in (outcome(there, "regression"), outcome(back, "regression"))


MATRIX = """
schema_version = 1
[runners.a100]
labels = ["self-hosted", "a100"]
[runners.agx-orin]
labels = ["self-hosted", "agx-orin"]
[gates]
min_sparse = 0.5
[[engine]]
name = "vit"
recipe = "r.toml"
targets = ["a100", "agx-orin"]
"""


def test_every_engine_of_the_matrix_is_judged() -> None:
    jobs = build_jobs(parse_matrix(MATRIX, "m"))["include"]
    found = judge_all(jobs, {"vit-a100": GOOD}, {"vit-a100": GOOD})
    assert {each.id: each.state for each in found} == {"vit-a100": "pass", "vit-agx-orin": "not built"}
    assert not passed(found)
    assert "**not built**" in summary(found)
    assert not passed([])


def test_the_command_on_files(tmp_path: Path) -> None:
    write_receipt(GOOD, tmp_path / "new.json")
    write_receipt(receipt(row(0.5), row(2.0, batch=8)), tmp_path / "old.json")
    arguments = ["gate", str(tmp_path / "new.json"), "--min-sparse", "0.5"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    slower = CliRunner().invoke(app, [*arguments, "--baseline", str(tmp_path / "old.json"), "--json"])
    assert slower.exit_code == 1
    told = json.loads(slower.stdout)
    assert (told["passed"], told["engines"][0]["state"]) == (False, "fail")
    assert f"{SHARE:.1%}" in json.dumps(told)


def test_the_command_on_a_matrix(tmp_path: Path) -> None:
    (tmp_path / "engines.toml").write_text(MATRIX)
    write_receipt(GOOD, tmp_path / "built/x/vit-a100.receipt.json")
    other = receipt(row(1.0, target="a100-80gb"), target="a100-80gb")  # no job of the matrix has this name
    write_receipt(other, tmp_path / "built/y/vit-other.receipt.json")
    done = CliRunner().invoke(
        app,
        ["gate", "--matrix", str(tmp_path / "engines.toml"), "--receipts", str(tmp_path / "built"),
         "--summary", str(tmp_path / "summary.md")],
    )  # fmt: skip
    assert done.exit_code == 1
    assert "not built  vit-agx-orin (agx-orin-64gb)" in done.stdout
    assert "| vit-a100 | a100-40gb | **pass** |" in (tmp_path / "summary.md").read_text()


def test_a_changed_receipt_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_receipt(GOOD, path)
    path.write_text(path.read_text().replace('"sparse": 0.72', '"sparse": 0.99'))
    assert CliRunner().invoke(app, ["gate", str(path)]).exit_code == 5


@pytest.mark.parametrize("arguments", [[], ["--matrix", "m.toml"], ["r.json", "--matrix", "m.toml"]])
def test_the_command_says_what_it_takes(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, ["gate", *arguments]).exit_code == 2
