"""The GPU stopwatch benchmark's own logic: what it writes, and that it says "not run" without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_stopwatch as script
from gpusq.artifacts import open_artifact
from gpusq.engines.sealed_bundle import open_bundle
from tests.engines.fake_device import FakeGpu
from tests.finishing.small import machine_with, make_pair

trt = pytest.importorskip("tensorrt_rtx", reason="the rtx extra builds real engines without a GPU")


def row(ours: float, theirs: float) -> dict[str, Any]:
    conditions = {"clocks": "core 1410 MHz", "throttled": False}
    return {"batch": 1, "gpusq_ms": ours, "torch_ms": theirs, "images_per_s": 10.0, "millijoules_per_image": None,
            "conditions": conditions}  # fmt: skip


def test_stopwatches_agree_within_the_tolerance_only() -> None:
    assert script.agrees(row(1.04, 1.0))
    assert not script.agrees(row(1.06, 1.0))
    assert not script.agrees(row(0.94, 1.0))


def test_without_a_gpu_the_committed_page_says_so() -> None:
    assert "not run: no GPU at hand" in script.not_run("no GPU at hand")
    committed = script.RESULT.with_suffix(".md").read_text()
    assert script.RESULT.is_file() or committed == script.not_run("no GPU at hand")


@pytest.mark.parametrize(("capability", "loads"), [((8, 0), True), ((9, 0), False)])
def test_both_outcomes_of_loading_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], loads: bool
) -> None:
    """On the stand-in device; torch's stopwatch is taken as given."""
    pair = make_pair(tmp_path / "store")
    machine = machine_with(trt, FakeGpu(capability), pair.plans()[:1] if loads else [])("tensorrt-rtx")
    monkeypatch.setattr(script, "RESULT", tmp_path / "result.json")
    monkeypatch.setattr(script, "torch_median_ms", lambda launch, stream: 0.5)
    monkeypatch.setattr(script, "BATCHES", (1,))
    assert machine.gpu is not None
    assert script.take(open_bundle(open_artifact(pair.model.path)), machine, machine.gpu) == 0
    text = (tmp_path / "result.md").read_text()
    assert ("loads and runs; outputs agree" in text) == loads
    assert ("does not load" in text) == (not loads)
    assert (tmp_path / "result.json").is_file()
