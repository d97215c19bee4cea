"""Imported receipts without rows: the notes that reports carry of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from gpusq.device_rows import failure_notes
from gpusq.finishing import FinishOptions, finish, import_receipt
from gpusq.pipeline import report_of
from gpusq.stages.stage import Context
from tests.engines.fake_device import FakeGpu
from tests.finishing.small import Pair, machine_with, machine_without_gpu, make_pair

trt = pytest.importorskip("tensorrt_rtx", reason="the rtx extra builds real engines without a GPU")


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """Both bundles for an A100 in a store of this test's own."""
    return make_pair(tmp_path / "store")


def test_an_engine_that_was_not_run_is_in_the_report_as_such(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpusq.evidence.accuracy_of", lambda *_: None)  # these bundles have no parents to score
    asked = FinishOptions(tmp_path / "engine", "tensorrt-rtx", receipt=tmp_path / "r.json")
    found = finish(pair.model.path, asked, machine_without_gpu(trt)).receipt
    import_receipt(found, pair.store)
    states = Counter(layer.state for layer in found.engines[0].layers.pruned)
    report = report_of(pair.model, (), Context(pair.store))
    assert {row.status for row in report.rows} == {"predicted"}
    (note,) = report.notes
    assert note.startswith(f"a100-40gb, {found.date}: built, not run: compute capability 8.0, tensorrt_rtx ")
    assert all(f"{count} pruned layers {state}" in note for state, count in states.items())
    assert "no GPU" in note
    (other,) = report_of(pair.twin, (), Context(pair.store)).notes
    assert "no pruned layers" in other


def test_a_stand_in_is_called_one(tmp_path: Path) -> None:
    pair = make_pair(tmp_path / "store", "agx-orin")
    asked = FinishOptions(tmp_path / "engine", "tensorrt-rtx", twin="none")
    import_receipt(finish(pair.model.path, asked, machine_without_gpu(trt)).receipt, pair.store)
    (note,) = failure_notes(pair.model, Context(pair.store))
    assert "built, not run: stand-in 8.6, " in note
    assert failure_notes(pair.twin, Context(pair.store)) == []


def test_an_engine_that_was_run_leaves_no_such_note(pair: Pair, tmp_path: Path) -> None:
    asked = FinishOptions(tmp_path / "engine", "tensorrt-rtx", seconds=0.02)
    import_receipt(finish(pair.model.path, asked, machine_with(trt, FakeGpu(), pair.plans())).receipt, pair.store)
    assert failure_notes(pair.model, Context(pair.store)) == []
