"""A build that fails: nothing is sealed, the error stays what it was, and a receipt says what was known by then."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from gpusq.artifacts.canonical import pretty_json
from gpusq.cli.main import app
from gpusq.errors import (
    ArtifactError,
    BuildMemoryError,
    EngineError,
    GpusqError,
    NonFiniteError,
    ParityError,
    PrecisionError,
    SparseShareError,
    StoreError,
    TamperedArtifactError,
    UnsupportedNodeError,
    UsageError,
)
from gpusq.finishing import FinishOptions, Receipt, finish, import_receipt, read_receipt, receipts_of
from gpusq.finishing.receipt_file import seal_of
from gpusq.gates import judge
from gpusq.matrix import Gates
from gpusq.pipeline import report_of
from gpusq.stages.stage import Context
from tests.engines.conftest import qdq_model
from tests.engines.fake_device import FakeGpu, FakePlan
from tests.finishing.small import Pair, machine_with, machine_without_gpu, make_pair

trt = pytest.importorskip("tensorrt_rtx", reason="the rtx extra builds real engines without a GPU")


def failed(pair: Pair, folder: Path, machine: Any, kind: type[GpusqError], **changes: Any) -> Receipt:
    """The receipt of a run that must fail with `kind` and seal nothing."""
    given = {"out": folder / "engine", "builder": "tensorrt-rtx", "seconds": 0.02, "receipt": folder / "receipt.json"}
    with pytest.raises(kind) as error:
        finish(pair.model.path, FinishOptions(**given | changes), machine)
    assert not list(folder.glob("engine*"))
    found = read_receipt(folder / "receipt.json")
    assert (found.status, found.engines, found.rows, found.measurements, found.verdicts) == ("failed", (), (), (), ())
    assert found.failure is not None
    assert found.failure.error.model_dump() == error.value.to_json()
    return found


def wrong(plan: FakePlan, amount: float = 0.5) -> FakePlan:
    """The plan with every output off by `amount`."""
    right = plan.compute
    return dataclasses.replace(plan, compute=lambda inputs: {"logits": right(inputs)["logits"] + amount})


@pytest.mark.parametrize(("index", "role"), [(0, "model"), (1, "dense twin")])
def test_other_outputs_leave_their_figures(pair: Pair, tmp_path: Path, index: int, role: str) -> None:
    plans = pair.plans()
    plans[index] = wrong(plans[index])
    found = failed(pair, tmp_path, machine_with(trt, FakeGpu(), plans), ParityError)
    failure = found.failure
    assert failure is not None
    assert (failure.step, failure.role) == ("run", role)
    assert failure.device is not None
    assert failure.device["name"] == "Fake A100"
    assert (failure.builder, failure.library) == ("tensorrt-rtx", trt.__version__)
    assert [b.bundle for b in failure.bundles] == [pair.model.digest, pair.twin.digest]
    at = failure.bundles[index]
    assert at.gate is not None
    assert at.gate["passed"] is False
    assert at.gate["figures"]["relative_error"] > at.gate["limits"]["relative_error"]
    assert all(b.layers is not None and b.layers.plan_sha256 and b.build for b in failure.bundles)  # both were built
    assert "build failed on Fake A100" in str(failure)
    assert "relative_error" in str(failure)


def test_a_nan_leaves_one_too(pair: Pair, tmp_path: Path) -> None:
    plans = [
        dataclasses.replace(p, compute=lambda i: {"logits": np.full((len(i["pixel_values"]), 5), np.nan)})
        for p in pair.plans()
    ]
    found = failed(pair, tmp_path, machine_with(trt, FakeGpu(), plans), NonFiniteError)
    assert found.failure is not None
    assert [b.gate for b in found.failure.bundles] == [None, None]


def test_a_graph_that_does_not_parse_leaves_the_refusal(tmp_path: Path) -> None:
    pair = make_pair(tmp_path / "store", fp16_onnx=qdq_model(half=True).replace(b'"\x04Gelu', b'"\x04Gulp'))
    found = failed(pair, tmp_path, machine_without_gpu(trt), UnsupportedNodeError, twin="none")
    assert found.failure is not None
    (at,) = found.failure.bundles
    assert (found.failure.step, found.failure.device, at.build, at.gate) == ("build", None, None, None)
    assert at.layers is not None
    assert at.layers.failure is not None
    assert "must parse node fc1/Gelu (Gulp) of layer fc1" in at.layers.failure.what
    assert (at.layers.library, at.layers.compute_capabilities) == ("tensorrt_rtx", ("8.0",))
    assert "a machine without a GPU" in str(found.failure)


def test_too_little_memory_at_the_second_build(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpusq.finishing import flow

    real = flow.build_bundle

    def build(*given: Any, what: str, **named: Any) -> Any:
        if what == "dense twin":
            raise BuildMemoryError("the build needs memory", got="7 MiB free", do="add swap")
        return real(*given, what=what, **named)

    monkeypatch.setattr(flow, "build_bundle", build)
    found = failed(pair, tmp_path, machine_with(trt, FakeGpu(), []), BuildMemoryError)
    assert found.failure is not None
    assert (found.failure.step, found.failure.role) == ("build", "dense twin")
    model, twin = found.failure.bundles
    assert model.layers is not None
    assert model.layers.failure is None
    assert twin.layers is not None
    assert twin.layers.failure is not None
    assert (twin.build, twin.layers.failure.error) == (None, "BuildMemoryError")


def test_too_few_sparse_kernels_leave_the_layers(pair: Pair, tmp_path: Path) -> None:
    found = failed(pair, tmp_path, machine_without_gpu(trt), SparseShareError, require_sparse=0.5)
    assert found.failure is not None
    shown = found.failure.bundles[0].layers
    assert found.failure.step == "layers"
    assert shown is not None
    assert shown.shares is not None
    assert shown.shares.sparse < 0.5


def test_another_precision_leaves_one_after_the_run(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpusq.finishing import flow

    def refuse(*_: Any) -> Any:
        raise PrecisionError("the engine must run as its graph says", got="3 layers in FP32")

    monkeypatch.setattr(flow, "layer_verdicts", refuse)
    found = failed(pair, tmp_path, machine_with(trt, FakeGpu(), pair.plans()), PrecisionError)
    assert found.failure is not None
    assert all(b.gate is not None and b.gate["passed"] and b.layers is not None for b in found.failure.bundles)


def test_a_wrong_command_is_no_failed_build(pair: Pair, tmp_path: Path) -> None:
    asked = FinishOptions(tmp_path / "engine", "tensorrt-rtx", receipt=tmp_path / "r.json")
    cache = dataclasses.replace(asked, timing_cache=tmp_path / "cache")
    with pytest.raises(UsageError, match="ahead of time"):
        finish(pair.model.path, cache, machine_without_gpu(trt))
    elsewhere = dataclasses.replace(asked, builder="tensorrt")
    with pytest.raises(EngineError, match="compress for this device"):
        finish(pair.model.path, elsewhere, machine_with(trt, FakeGpu(capability=(8, 7)), []))
    assert not (tmp_path / "r.json").exists()  # nothing was tried that could tell anything of the bundle


def test_a_receipt_that_cannot_be_written_does_not_hide_the_error(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpusq.finishing import failing

    def full(*_: Any) -> None:
        raise StoreError("no space")

    monkeypatch.setattr(failing, "write_receipt", full)
    told: list[str] = []
    asked = FinishOptions(
        tmp_path / "engine",
        "tensorrt-rtx",
        receipt=tmp_path / "r.json",
        require_sparse=0.5,
        progress=lambda what, done, total, note: told.append(f"{what} {note}"),
    )
    with pytest.raises(SparseShareError):
        finish(pair.model.path, asked, machine_without_gpu(trt))
    assert any("receipt not written: no space" in line for line in told)


@pytest.fixture
def receipt(pair: Pair, tmp_path: Path) -> Receipt:
    """Of a model whose outputs differ."""
    first, twin = pair.plans()
    return failed(pair, tmp_path, machine_with(trt, FakeGpu(), [wrong(first), twin]), ParityError)


def test_it_is_imported_and_the_report_says_so_without_rows(
    receipt: Receipt, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpusq.evidence.accuracy_of", lambda *_: None)  # these bundles have no parents to score
    names = import_receipt(receipt, pair.store)
    assert import_receipt(receipt, pair.store) == names
    assert names[0] == f"bundle-{pair.model.digest[:12]}"
    assert receipts_of(pair.model, pair.store) == [receipt] == receipts_of(pair.twin, pair.store)
    report = report_of(pair.model, (), Context(pair.store))
    assert {row.status for row in report.rows} == {"predicted"}
    (note,) = report.notes
    assert f"a100-40gb, {receipt.date}: build failed on Fake A100" in note
    assert "ParityError" in note
    assert not any(pair.store.verify_all().values())


def test_a_failure_of_another_graph_is_not_imported(receipt: Receipt, pair: Pair, tmp_path: Path) -> None:
    fields = receipt.model_dump(mode="json")
    fields["failure"]["bundles"][0]["onnx_sha256"] = "0" * 64
    path = tmp_path / "other.json"
    path.write_bytes(pretty_json(fields | {"sha256": seal_of(fields)}))
    with pytest.raises(ArtifactError, match="graph and target"):
        import_receipt(read_receipt(path), pair.store)
    assert receipts_of(pair.twin, pair.store) == []


def test_the_gate_fails_it_and_quotes_the_reason(receipt: Receipt) -> None:
    found = judge("vit-a100", "a100-40gb", receipt, None, Gates())
    assert (found.state, found.findings[0].gate, found.findings[0].outcome) == ("fail", "built", "fail")
    assert "build failed on Fake A100" in found.findings[0].seen
    assert "relative_error" in found.findings[0].seen
    assert judge("vit-orin", "agx-orin-64gb", receipt, None, Gates()).state == "not built"  # of another target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.update(status="measured"), "status 'failed' exactly"),
        (lambda f: f.pop("failure"), "status 'failed' exactly"),
        (lambda f: f["failure"].update(bundles=[]), "bundles"),
        (lambda f: f.update(measurements=[{}]), "no rows"),
    ],
)
def test_a_failure_is_either_whole_or_refused(
    receipt: Receipt, tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    fields = receipt.model_dump(mode="json")
    change(fields)
    path = tmp_path / "x.json"
    path.write_bytes(pretty_json(fields | {"sha256": seal_of(fields)}))
    with pytest.raises(ArtifactError, match=message):
        read_receipt(path)
    path.write_bytes(pretty_json(receipt.model_dump(mode="json") | {"target": "agx-orin-64gb"}))
    with pytest.raises(TamperedArtifactError):
        read_receipt(path)


def test_a_receipt_of_engines_has_no_such_field_so_its_seal_is_that_of_before(pair: Pair, tmp_path: Path) -> None:
    asked = FinishOptions(tmp_path / "engine", "tensorrt-rtx", receipt=tmp_path / "r.json")
    finish(pair.model.path, asked, machine_without_gpu(trt))
    assert "failure" not in json.loads((tmp_path / "r.json").read_text())
    import_receipt(read_receipt(tmp_path / "r.json"), pair.store)
    assert len(receipts_of(pair.model, pair.store)) == 1


def test_the_commands(pair: Pair, tmp_path: Path) -> None:
    told, store = str(tmp_path / "r.json"), str(pair.store.root)
    build = ["build", str(pair.model.path), "--builder", "tensorrt-rtx", "--out", str(tmp_path / "e"), "-q"]
    done = CliRunner().invoke(app, [*build, "--require-sparse", "0.5", "--receipt", told, "--json"])
    assert done.exit_code == SparseShareError.exit_code
    assert json.loads(done.stdout)["error"]["type"] == "SparseShareError"
    done = CliRunner().invoke(app, ["import", told, "--store", store])
    assert done.exit_code == 0
    assert "failed, 0 measured rows" in done.stdout
    assert "SparseShareError" in done.stdout
    done = CliRunner().invoke(app, ["gate", told])
    assert done.exit_code == 1
    assert "SparseShareError" in done.stdout
