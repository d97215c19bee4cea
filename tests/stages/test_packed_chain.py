"""Packed attention in the layout of the first DETR, by the stages: Q, K and V of the sealed files are 2:4 and INT8."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from gpusq.artifacts import Artifact, Store
from gpusq.data import open_data
from gpusq.errors import SparsityCheckError
from gpusq.graph import export_onnx, violations_nm
from gpusq.graph.model_file import read_model
from gpusq.graph.weights import StoredWeight, stored_weights
from gpusq.stages import Export, Intake, Prune, Qat
from gpusq.stages.stage import Context, run_stage
from gpusq.zoo.images import write_images
from tests.models.detector_samples import PACKED_SOURCE
from tests.models.model_samples import write_model

ATTENTIONS = (
    *(f"encoder.{i}.self_attn" for i in range(2)),
    *(f"decoder.{i}.{name}" for i in range(2) for name in ("self_attn", "multihead_attn")),
)
PARTS = tuple(f"{attention}.{part}_proj" for attention in ATTENTIONS for part in "qkv")
CONSTANT = {*(f"decoder.0.self_attn.{part}_proj" for part in "qkv"), "decoder.0.multihead_attn.q_proj"}
"""The decoder starts from zeros: what its first layer computes before it looks is the same for every image."""
FILES = ("model.fp32.onnx", "model.fp16.onnx")

exporter = sys.modules[export_onnx.__module__]  # the package's own name for it is the function
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    root = tmp_path_factory.mktemp("packed")
    return Context(Store(root / "store"), open_data(write_images(root / "images")))


def through_the_stages(context: Context, folder: Path, also_prune: Sequence[str] = ()) -> Artifact:
    """The sealed ONNX artifact of the packed detector. Its fresh weights agree on nothing: agreement is not judged."""
    model = write_model(folder / "packed.py", PACKED_SOURCE)
    chain = (
        Intake(model=model),
        Prune(epochs=0, calibration_images=8, also_prune=tuple(also_prune)),
        Qat(epochs=0, calibration_images=8),
        Export(samples=2, parity_images=4, agreement=0.0, fp16_agreement=0.0),
    )
    artifact: Artifact | None = None
    for stage in chain:
        artifact = run_stage(stage, artifact, context).artifact
    assert artifact is not None
    return artifact


def projections(artifact: Artifact, file: str) -> dict[str, StoredWeight]:
    """Place in the model -> weight of the file, of every Q, K and V; each stands there once."""
    stored = list(stored_weights(read_model(artifact.read(file))))
    found = {part: [w for w in stored if w.layer.endswith(f".{part}")] for part in PARTS}
    assert {part: len(weights) for part, weights in found.items()} == dict.fromkeys(PARTS, 1)
    return {part: weights[0] for part, weights in found.items()}


@pytest.fixture(scope="module")
def exported(context: Context, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return through_the_stages(context, tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("file", FILES)
def test_queries_keys_and_values_that_see_the_image_are_2_4_and_int8(exported: Artifact, file: str) -> None:
    weights = projections(exported, file)
    assert all(weight.matrix.any() for weight in weights.values())
    assert {part for part, weight in weights.items() if violations_nm(weight.matrix)} == CONSTANT
    assert {part for part, weight in weights.items() if not weight.int8} == CONSTANT


@pytest.mark.parametrize("file", FILES)
def test_all_of_them_are_2_4_on_request(context: Context, tmp_path: Path, file: str) -> None:
    asked = through_the_stages(context, tmp_path, [f"*{name}" for name in sorted(CONSTANT)])
    assert {part: violations_nm(w.matrix) for part, w in projections(asked, file).items()} == dict.fromkeys(PARTS, 0)


def test_a_value_projection_that_lost_its_zeros_is_not_sealed(
    context: Context, exported: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is the file that was written, not what the layers say of themselves."""
    own = exporter.finish

    def spoiled(model: ir.Model, *rest: Any) -> None:
        own(model, *rest)
        weight = next(w for w in stored_weights(model) if w.layer.endswith("encoder.1.self_attn.v_proj"))
        value = model.graph.initializers[weight.tensor]
        assert value.const_value is not None
        dense = value.const_value.numpy().copy()
        dense[dense == 0] = 1
        value.const_value = ir.tensor(dense, name=value.name)

    monkeypatch.setattr(exporter, "finish", spoiled)
    quantized = next(a for a in context.store.ancestors(exported) if a.kind == "quantized")
    before = sorted(a.digest for a in context.store.artifacts())
    with pytest.raises(SparsityCheckError, match=r"encoder\.1\.self_attn\.v_proj"):
        run_stage(Export(samples=3, parity_images=4, agreement=0.0, fp16_agreement=0.0), quantized, context)
    assert sorted(a.digest for a in context.store.artifacts()) == before
