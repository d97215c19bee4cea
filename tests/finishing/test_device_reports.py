"""The way back: what a device measured appears in the host's reports as measured, with its conditions, and decides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpusq.artifacts import Store
from gpusq.finishing import FinishOptions, finish
from gpusq.pipeline import report_of
from gpusq.stages.stage import Context
from tests.chain import Chain
from tests.engines.fake_device import FakeGpu, classifier
from tests.finishing.small import machine_with, run_onnx

trt = pytest.importorskip("tensorrt_rtx", reason="the rtx extra builds real engines without a GPU")


def gpusq(*arguments: object, cwd: Path, allowed: tuple[int, ...] = (0,)) -> Any:
    command = [sys.executable, "-m", "gpusq", *map(str, arguments), "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env=os.environ | {"COLUMNS": "120"}
    )
    assert done.returncode in allowed, done.stdout + done.stderr
    return json.loads(done.stdout)


def measured(chain: Chain, store: Store, out: Path, times: tuple[float, float]) -> Path:
    """Finish the A100 bundles of a chain on the stand-in device; returns the receipt file."""
    bundles = [store.resolve(chain.artifact("build", role, "a100-40gb").digest) for role in ("model", "dense twin")]
    plans = [
        classifier(4, (3, 32, 32), compute=run_onnx(b.read("model.fp32.onnx")), takes_ms=lambda n, ms=ms: ms * n)
        for b, ms in zip(bundles, times, strict=True)
    ]
    options = FinishOptions(out / "engine", builder="tensorrt-rtx", seconds=0.02, receipt=out / "receipt.json")
    finish(bundles[0].path, options, machine_with(trt, FakeGpu(), plans))
    return out / "receipt.json"


@pytest.mark.slow
def test_an_imported_receipt_is_in_the_report_and_decides(chain: Chain, tmp_path: Path) -> None:
    store = chain.copy(tmp_path / "store")
    receipt = measured(chain, store, tmp_path, (1.2, 1.0))
    bundle = chain.artifact("build", "model", "a100-40gb")
    before = gpusq("report", bundle.digest[:12], "--store", store.root, cwd=tmp_path)
    assert {row["status"] for row in before["rows"]} == {"predicted"}
    first = gpusq("import", receipt, "--store", store.root, cwd=tmp_path)
    assert (first["status"], first["rows"]) == ("measured", 6)
    assert gpusq("import", receipt, "--store", store.root, cwd=tmp_path) == first
    after = gpusq("report", bundle.digest[:12], "--store", store.root, cwd=tmp_path)
    rows = [row for row in after["rows"] if row["status"] == "measured"]
    assert [(row["artifact"]["variant"], row["batch"]) for row in rows] == [
        (variant, batch) for variant in ("sparse-int8", "dense-fp16") for batch in (1, 8, 32)
    ]
    for row in rows:
        assert row["artifact"]["kind"] == "engine"
        assert row["conditions"]["device"] == "Fake A100"
        assert "outputs agreed on 4 samples (relative_error" in row["accuracy"]["how"]
        assert "top1_agreement 1)" in row["accuracy"]["how"]
    (verdict,) = after["verdicts"]
    assert (verdict["decision"], verdict["basis"]) == ("do not ship", "measured")
    assert gpusq("verify", "--store", store.root, cwd=tmp_path)["problems"] == []

    gpusq("report", bundle.digest[:12], "--store", store.root, "--report", "report.json", cwd=tmp_path)
    judged = gpusq("gate", receipt, "--report", "report.json", cwd=tmp_path, allowed=(0, 1))["engines"][0]
    (accuracy,) = (finding for finding in judged["findings"] if finding["gate"] == "accuracy")
    assert "points of top1 below the dense twin" in accuracy["seen"]


@pytest.mark.slow
def test_a_second_compress_shows_the_imported_rows_once(chain: Chain, tmp_path: Path) -> None:
    from dataclasses import replace

    from gpusq.finishing import import_receipt, read_receipt
    from tests.chain import run_chain

    store = chain.copy(tmp_path / "store")
    import_receipt(read_receipt(measured(chain, store, tmp_path, (0.5, 1.0))), store)
    again = run_chain(store.root, replace(chain.recipe, targets=("a100",)))
    assert all(step.done.reused for step in again.steps)
    rows = [row for row in again.report.rows if row.status == "measured"]
    assert len(rows) == 6
    assert [v.basis for v in again.report.verdicts] == ["measured"]
    bundle = store.resolve(chain.artifact("build", "model", "a100-40gb").digest)
    assert report_of(bundle, (), Context(store)).verdicts[0].basis == "measured"


@pytest.mark.slow
def test_the_commands_refuse_what_is_not_theirs(chain: Chain, tmp_path: Path) -> None:
    store = chain.copy(tmp_path / "store")
    receipt = measured(chain, store, tmp_path, (0.5, 1.0))
    data = bytearray(receipt.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "changed.json").write_bytes(data)
    for arguments, kind in (
        (("import", tmp_path / "changed.json", "--store", store.root), "TamperedArtifactError"),
        (("import", receipt, "--store", tmp_path / "nothing"), "ArtifactNotFoundError"),
        (("bench", tmp_path / "engine", "--target", "agx-orin"), "UsageError"),
        (("bench", tmp_path / "engine", "--target", "a100"), "EngineError"),
    ):
        found = gpusq(*arguments, cwd=tmp_path, allowed=(2, 5, 8))
        assert found["error"]["type"] == kind
    Store(tmp_path / "empty").add_report("0" * 64, "x", [])
    found = gpusq("import", receipt, "--store", tmp_path / "empty", cwd=tmp_path, allowed=(5,))
    assert found["error"]["type"] == "ArtifactNotFoundError"
