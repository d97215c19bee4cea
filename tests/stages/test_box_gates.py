"""Export and Build hold a detector to its boxes and scores: one fault is refused, another order of queries is not."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpusq.artifacts import Artifact, Store
from gpusq.data import open_data
from gpusq.engines.bundle import BOX_LIMITS
from gpusq.engines.onnxruntime_engine import OnnxRuntimeRunner
from gpusq.engines.sealed_bundle import open_bundle
from gpusq.errors import ParityError, UsageError
from gpusq.finishing.gate import LEAST_FAINT, LEAST_IOU, MOST_SCORE, check_gate, gate_of
from gpusq.graph import read_model
from gpusq.quantization.layers import quantizers
from gpusq.stages import Build, Export, Prune, Qat, Train, model_files
from gpusq.stages.stage import Context, run_stage
from tests.sabotage_boxes import FAULTS as ALL_FAULTS
from tests.sabotage_boxes import permuted, shifted_sigmoid
from tests.stages.test_detection_chain import squares

EXPORT = Export(samples=3, parity_images=5)
FAULTS = ALL_FAULTS | {"shifted": shifted_sigmoid}  # the preset's head
BUILD = Build(target="cpu", runtime="onnxruntime", rtx_check="off")


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """Squares and circles (so called), and a store."""
    root = tmp_path_factory.mktemp("boxes")
    for split, count in (("train", 8), ("test", 6)):
        squares(root / split, count, count)
        path = root / split / "_annotations.coco.json"
        data = json.loads(path.read_text(encoding="utf-8"))
        data["categories"].append({"id": 2, "name": "circle"})
        for index, annotation in enumerate(data["annotations"]):
            annotation["category_id"] = 1 + index % 2
        path.write_text(json.dumps(data), encoding="utf-8")
    return Context(store=Store(root / "store"), data=open_data(f"coco:{root}"))


def confident(module: torch.nn.Module) -> None:
    """Let the head prefer the first class: with fresh weights both score alike, and a swap is no fault."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, torch.nn.Linear) and part.out_features == 2:
                part.bias.copy_(torch.tensor([0.5, -3.0]))


@pytest.fixture(scope="module")
def models(context: Context) -> dict[str, Artifact]:
    """A dense and a 2:4 INT8 detector that is sure of its first class."""
    save = model_files.save_model

    def saved(state: Any, out: Path) -> None:
        confident(state.module)
        save(state, out)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_files, "save_model", saved)
        train = Train(model="new:vit-detr-mini?size=60", epochs=0.5, batch_size=4)
        dense = run_stage(train, None, context).artifact
    sparse = run_stage(Prune(epochs=0, calibration_images=4), dense, context).artifact
    return {"dense": dense, "int8": run_stage(Qat(epochs=0, calibration_images=4), sparse, context).artifact}


@pytest.fixture(scope="module")
def exported(models: dict[str, Artifact], context: Context) -> dict[str, Artifact]:
    """Both exported under the bars that hold unless a recipe says otherwise."""
    return {name: run_stage(EXPORT, model, context).artifact for name, model in models.items()}


@pytest.fixture
def traced(exported: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing takes seconds and gives the same graph: take that of the honest export."""

    def export(module: torch.nn.Module, *_: Any, **__: Any) -> Any:
        quantized = any(True for _ in quantizers(module))
        return read_model(exported["int8" if quantized else "dense"].path / "model.fp32.onnx")

    monkeypatch.setattr(sys.modules["gpusq.graph.export_onnx"], "export_onnx", export)


def spoil(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """ONNX Runtime gives changed outputs."""
    own = OnnxRuntimeRunner.outputs
    monkeypatch.setattr(OnnxRuntimeRunner, "outputs", lambda self, pixels: change(own(self, pixels)))


def refused(stage: Any, parent: Artifact, context: Context, match: str) -> None:
    before = sorted(a.digest for a in context.store.artifacts())
    with pytest.raises(ParityError, match=match) as caught:
        run_stage(stage, parent, context)
    text = str(caught.value)
    assert not any(word in text for word in ("top-1", "inf ", "inf:", "infinity", "images"))
    assert sorted(a.digest for a in context.store.artifacts()) == before


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("kind", ["dense", "int8"])
@pytest.mark.parametrize("fault", FAULTS)
def test_an_export_with_a_fault_is_not_sealed(
    kind: str, fault: str, models: dict[str, Artifact], context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, FAULTS[fault])
    refused(replace(EXPORT, parity_images=4), models[kind], context, "export: .*boxes")


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("kind", ["dense", "int8"])
def test_an_export_in_another_order_is_sealed_with_the_figures_of_its_pairs(
    kind: str, models: dict[str, Artifact], context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, permuted)
    done = run_stage(replace(EXPORT, parity_images=3), models[kind], context).artifact
    for name in ("parity_fp32", "parity_fp16"):
        found = done.read_json("export.json")[name]
        assert (found["task"], found["paired"], found["matched"]) == ("detection", True, found["n"])
        assert found["mean_iou"] > 0.95
        assert found["score"] < 0.01
    assert done.manifest.facts["parity_fp32"]["relative"] < (1e-4 if kind == "dense" else 0.05)


@pytest.mark.usefixtures("traced")
def test_the_fp16_file_alone_is_judged_too(
    models: dict[str, Artifact], context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = OnnxRuntimeRunner.outputs

    def outputs(self: OnnxRuntimeRunner, pixels: np.ndarray) -> Any:
        found = own(self, pixels)
        return FAULTS["wider"](found) if len(pixels) == 3 else found  # the three stored samples: the FP16 file

    monkeypatch.setattr(OnnxRuntimeRunner, "outputs", outputs)
    refused(replace(EXPORT, parity_images=6), models["dense"], context, "FP16 ONNX and PyTorch.*overlap")


@pytest.mark.usefixtures("traced")
def test_an_agreement_of_0_judges_no_boxes_of_a_quantized_model(
    models: dict[str, Artifact], context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, FAULTS["wider"])
    off = replace(EXPORT, parity_images=2, samples=2, agreement=0.0, fp16_agreement=0.0)
    assert run_stage(off, models["int8"], context).artifact.read_json("export.json")["parity_self"] is None
    refused(off, models["dense"], context, "within 0.0001 of the largest value")


@pytest.mark.parametrize("kind", ["dense", "int8"])
@pytest.mark.parametrize("fault", FAULTS)
def test_an_engine_with_a_fault_is_not_sealed(
    kind: str, fault: str, exported: dict[str, Artifact], context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, FAULTS[fault])
    refused(replace(BUILD, max_batch=5), exported[kind], context, "build: the onnxruntime engine and PyTorch.*boxes")


@pytest.mark.parametrize("kind", ["dense", "int8"])
def test_an_engine_that_agrees_is_sealed_in_any_order(
    kind: str, exported: dict[str, Artifact], context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_stage(BUILD, exported[kind], context).artifact.kind == "engine"
    spoil(monkeypatch, permuted)
    assert run_stage(replace(BUILD, max_batch=6), exported[kind], context).artifact.kind == "engine"


def test_the_device_holds_its_boxes_to_what_the_build_asked(exported: dict[str, Artifact], context: Context) -> None:
    stage = replace(BUILD, target="a100", box_iou=0.9, score_difference=0.07)
    bundle = open_bundle(run_stage(stage, exported["int8"], context).artifact)
    assert json.loads(bundle.files[BOX_LIMITS]) == {"mean_iou": 0.9, "score": 0.07, "faint": 0.75}
    _, expected = bundle.expected()
    judge = gate_of("detection")
    good = judge(bundle, expected, permuted(expected))
    assert good.passed
    assert good.n == 3
    assert (good.limits["mean_iou"], good.limits["score_difference"]) == (0.9, 0.07)
    for fault in FAULTS.values():
        with pytest.raises(ParityError, match="boxes_found_by_both"):
            check_gate(judge(bundle, expected, fault(expected)), "the model")


def test_bundles_without_bars_are_held_to_those_of_build() -> None:
    assert (Build().box_iou, Build().score_difference, Build().faint_agreement) == (LEAST_IOU, MOST_SCORE, LEAST_FAINT)


@pytest.mark.parametrize("stage", [Export, Build])
@pytest.mark.parametrize("bar", [{"box_iou": 1.5}, {"score_difference": -0.1}, {"box_iou": float("nan")}])
def test_bars_are_shares(stage: Any, bar: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="must be from 0 to 1"):
        stage(**bar)
