"""A detector through every step of the zoo, and one whose file finds other boxes than its model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from gpusq.engines.onnxruntime_engine import OnnxRuntimeRunner
from gpusq.zoo import STEPS, Family, FamilyResult, Limits, run_zoo
from gpusq.zoo.family import run_family

DETR = Family("DETR", "new:detr-mini")


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="needs the rtx extra: pip install 'gpusq[rtx]'"
)
def test_a_detector_passes_every_step() -> None:
    (result,) = run_zoo([DETR], Limits(600))
    assert result.passed, result.why
    assert (result.task, result.done) == ("detection", list(STEPS))
    assert result.compared.startswith("boxes")
    assert result.sparse is not None
    assert result.sparse > 0.7
    assert result.dense is not None
    assert result.dense["n"] > 0
    assert result.half is not None
    assert result.half["mean_iou"] > 0.8
    assert result.int8_gemms == result.int8_layers
    assert result.int8_gemms


@pytest.mark.slow
@pytest.mark.parametrize("name", ["boxes", "logits"])
def test_a_detector_whose_file_computes_something_else_stops_at_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    own = OnnxRuntimeRunner.outputs

    def spoiled(self: OnnxRuntimeRunner, pixels: np.ndarray) -> dict[str, np.ndarray]:
        found = own(self, pixels)
        return {**found, name: found[name] * 0.5 if name == "boxes" else np.roll(found[name], 1, axis=-1)}

    monkeypatch.setattr(OnnxRuntimeRunner, "outputs", spoiled)
    told: list[FamilyResult] = []
    result = run_family(DETR, tmp_path, told.append)
    assert not result.passed
    assert result.done == ["intake", "prune", "quantize"]
    assert result.why.startswith("ParityError: ")
    assert "ONNX Runtime and PyTorch" in result.why
    assert result.dense is None
    assert told[-1] is result
