"""Layers and attention of the user's own classes go through every stage as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from gpusq.artifacts import Artifact, Store
from gpusq.data import open_data
from gpusq.errors import ParityError
from gpusq.models.layers import OWN_FORWARD_REASON
from gpusq.stages import Export, Intake, Prune, Qat
from gpusq.stages.stage import Context, run_stage
from tests.models.model_samples import write_model
from tests.models.test_gapped_head import cells
from tests.models.test_unchanged import source_of

LOOSE = Export(samples=2, parity_images=4, agreement=0, fp16_agreement=0, box_iou=0, score_difference=1)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    for split in ("train", "test"):
        cells(tmp_path / "set", split)
    return Context(Store(tmp_path / "store"), open_data(f"coco:{tmp_path / 'set'}"))


@pytest.fixture
def quantized(tmp_path: Path, context: Context) -> Artifact:
    dense = run_stage(Intake(model=write_model(tmp_path / "net.py", source_of())), None, context).artifact
    sparse = run_stage(Prune(epochs=0, calibration_images=2), dense, context).artifact
    return run_stage(Qat(epochs=0, calibration_images=2), sparse, context).artifact


def test_they_stay_dense_and_float_and_are_exported(quantized: Artifact, context: Context) -> None:
    layers = {layer["name"].removeprefix("model."): layer for layer in quantized.read_json("layers.json")}
    assert layers["embed"]["why_dense"] == OWN_FORWARD_REASON
    assert "floating point" in layers["embed"]["why_float"]
    assert (layers["feed"]["sparse"], layers["feed"]["int8"]) == (True, True)
    exported = run_stage(LOOSE, quantized, context).artifact
    assert exported.read_json("export.json")["parity_fp32"]["relative"] < 1e-3


def test_a_wrong_weight_of_a_plain_layer_is_still_seen(
    quantized: Artifact, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpusq.stages import exported_checks

    def other(data: bytes) -> dict[str, np.ndarray]:
        weights = load(data)
        return {name: value + (name == "model.head.weight") for name, value in weights.items()}

    monkeypatch.setattr(exported_checks, "load", other)
    with pytest.raises(ParityError, match=r"the weight of model\.head"):
        run_stage(LOOSE, quantized, context)
