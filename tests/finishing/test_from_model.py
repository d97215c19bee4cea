"""A model to an engine through torch-tensorrt, at its boundary: torch.export is real, converter and device stand in."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load
from typer.testing import CliRunner

from gpusq.artifacts import Artifact, Store, open_artifact
from gpusq.cli.main import app
from gpusq.data import open_data
from gpusq.engines.compatibility import rebuild_command
from gpusq.errors import (
    ArtifactError,
    EngineError,
    MissingExtraError,
    ParityError,
    StageOrderError,
    UnsupportedNodeError,
    UsageError,
)
from gpusq.finishing import Finished, FinishOptions, import_receipt, read_receipt
from gpusq.finishing.from_model import finish_model
from gpusq.finishing.gate import outputs_gate
from gpusq.gates import judge
from gpusq.machine import Machine
from gpusq.matrix import Gates
from gpusq.stages import Build
from tests.chain import Chain
from tests.engines.fake_device import FakeGpu, FakePlan, Tensor
from tests.engines.recordings import text
from tests.engines.tensorrt.test_build_on_a_device import stand_in
from tests.engines.tensorrt.test_torch_tensorrt import install
from tests.finishing.small import machine_with

trt = pytest.importorskip("tensorrt_rtx", reason="its enums stand where full TensorRT's would")
SHAPE = (3, 32, 32)


class Converter:
    """torch-tensorrt's entry point: keeps the program that it was given, which then computes what its plan would."""

    def __init__(self, error: str = "") -> None:
        self.error = error
        self.program: Any = None
        self.settings: dict[str, Any] = {}

    def __call__(self, program: Any, *, arg_inputs: Any, **settings: Any) -> bytes:
        if self.error:
            raise RuntimeError(self.error)
        self.program, self.settings = program, settings | {"inputs": arg_inputs}
        return b"the plan"

    def compute(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            found = self.program.module()(torch.from_numpy(np.ascontiguousarray(inputs["pixel_values"])))
        return {f"output{i}": tensor.numpy() for i, tensor in enumerate(found)}


@pytest.fixture
def converter(monkeypatch: pytest.MonkeyPatch) -> Converter:
    return installed(monkeypatch, Converter())


def installed(monkeypatch: pytest.MonkeyPatch, converter: Converter) -> Converter:
    install(monkeypatch, converter)
    library = stand_in()
    library.EngineInspector = library.LayerInformationFormat = None  # what it would tell is another test's matter
    monkeypatch.setitem(sys.modules, "tensorrt", library)  # type: ignore[arg-type]
    monkeypatch.setattr("gpusq.engines.tensorrt.torch_tensorrt.inspect_plan", lambda *_: (INSPECTED, ""))
    return converter


INSPECTED = text("trt10_sparse_chosen.json")


def device(compute: Any, capability: tuple[int, int] = (8, 0)) -> Any:
    """A machine whose GPU runs the one plan."""
    tensors = (
        Tensor("pixel_values", True, "FLOAT", (-1, *SHAPE)),
        Tensor("output0", False, "FLOAT", (-1, 4)),
    )
    machine = machine_with(trt, FakeGpu(capability=capability), [FakePlan(tensors, compute, lambda batch: 1.0 * batch)])
    return lambda builder: replace(machine(builder), builder=builder)


@pytest.fixture(scope="module")
def kept(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The chain's store and, as after `gpusq export SPARSE`, an export of the sparse model."""
    from gpusq.stages import Export
    from gpusq.stages.stage import run_stage

    store = chain.copy(tmp_path_factory.mktemp("from-model") / "store")
    sparse = store.resolve(chain.artifact("prune").digest)
    run_stage(Export(samples=4, parity_images=4, agreement=0.0, fp16_agreement=0.0), sparse, chain.context(store))
    return store


def build(
    chain: Chain, store: Store, folder: Path, machine: Any, kind: str = "prune", role: str = "model", **changes: Any
) -> Finished:
    artifact = store.resolve(chain.artifact(kind, role).digest)
    given = {"out": folder / "engine", "builder": "torch-tensorrt", "seconds": 0.02, "receipt": folder / "r.json"}
    stage = Build(target="a100", agreement=0.0)
    return finish_model(artifact, store, stage, FinishOptions(**given | changes), machine)


@pytest.mark.slow
def test_a_sparse_model_becomes_a_sealed_engine(
    chain: Chain, kept: Store, tmp_path: Path, converter: Converter
) -> None:
    finished = build(chain, kept, tmp_path, device(converter.compute))
    types = {node.meta["val"].dtype for node in converter.program.graph.nodes if "linear" in str(node.target)}
    assert types == {torch.float16}
    low, best, high = (converter.settings["inputs"][0][name] for name in ("min_shape", "opt_shape", "max_shape"))
    assert (low, best, high) == ((1, *SHAPE), (8, *SHAPE), (32, *SHAPE))
    assert converter.settings["sparse_weights"] is True
    engine = open_artifact(finished.engines["model"].path)
    model = kept.resolve(chain.artifact("prune").digest)
    assert engine.verify() == []
    assert [(p.role, p.kind, p.digest) for p in engine.manifest.parents] == [("model", "sparse", model.digest)]
    facts = engine.read_json("engine.json")
    assert (facts["place"]["builder"], facts["place"]["library"]) == ("tensorrt", trt.__version__)
    assert "torch-tensorrt 2.13.0" in facts["runtime"]
    assert facts["outputs"] == {"output0": [4]}
    assert set(load(engine.read("samples.safetensors"))) == {"pixel_values", "output0"}  # as the plan names them
    name = f"sparse-{model.digest[:12]}"
    assert rebuild_command(engine) == f"gpusq build {name} --builder torch-tensorrt --target a100-40gb"
    receipt = read_receipt(tmp_path / "r.json")
    assert (receipt.status, {row.artifact.variant for row in receipt.rows}) == ("measured", {"sparse-fp16"})
    (built,) = receipt.engines
    assert built.gate is not None
    assert built.gate["passed"] is True
    assert 0 < built.gate["figures"]["relative_error"] < 0.05  # FP16 beside the float32 of PyTorch
    assert judge("x", "a100-40gb", receipt, None, Gates()).findings[0].outcome == "pass"
    with pytest.raises(ArtifactError, match="torch-tensorrt built"):
        import_receipt(receipt, kept)


@pytest.mark.slow
def test_a_dense_model_needs_no_other_export_than_the_twins(
    chain: Chain, kept: Store, tmp_path: Path, converter: Converter
) -> None:
    finished = build(chain, kept, tmp_path, device(converter.compute), "intake")
    assert [e.variant for e in finished.receipt.engines] == ["dense-fp16"]


@pytest.mark.slow
def test_what_fails_leaves_its_receipt(
    chain: Chain, kept: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converter = installed(monkeypatch, Converter())

    def wrong(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: array + 100 for name, array in converter.compute(inputs).items()}

    with pytest.raises(ParityError):
        build(chain, kept, tmp_path, device(wrong))
    found = read_receipt(tmp_path / "r.json").failure
    assert found is not None
    assert (found.step, found.builder) == ("run", "tensorrt")
    no_kernel = "Could not find any implementation for node {ForeignNode[fc1]}."
    installed(monkeypatch, Converter(no_kernel))
    with pytest.raises(UnsupportedNodeError):
        build(chain, kept, tmp_path, device(None))
    found = read_receipt(tmp_path / "r.json").failure
    assert found is not None
    assert (found.step, found.bundles[0].onnx_sha256) == ("build", chain.artifact("prune").digest)
    assert not (tmp_path / "engine").exists()


@pytest.mark.slow
def test_what_it_does_not_take(chain: Chain, kept: Store, tmp_path: Path, converter: Converter) -> None:
    machine = device(converter.compute)
    with pytest.raises(StageOrderError, match=r"no converter.*quantized model.*sparse parent.*--keep-float"):
        build(chain, kept, tmp_path, machine, "qat")
    with pytest.raises(StageOrderError, match="model artifacts: dense, sparse; got onnx"):
        build(chain, kept, tmp_path, machine, "export")
    with pytest.raises(UsageError, match="timing cache of its own"):
        build(chain, kept, tmp_path, machine, timing_cache=tmp_path / "c")
    with pytest.raises(UsageError, match=r"no export of sparse-.*gpusq export sparse-"):
        build(chain, chain.copy(tmp_path / "bare"), tmp_path, machine)
    with pytest.raises(EngineError, match=r"for NVIDIA A100.*got Fake A100, compute capability 8\.7"):
        build(chain, kept, tmp_path, device(converter.compute, (8, 7)))
    with pytest.raises(EngineError, match="on the device itself"):
        build(chain, kept, tmp_path, lambda builder: Machine(builder, trt, None, "no GPU"))
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.slow
def test_the_command(chain: Chain, kept: Store, tmp_path: Path) -> None:
    def refused(reference: Artifact, *more: str) -> dict[str, Any]:
        command = ["build", reference.digest[:12], "--store", str(kept.root), "--builder", "torch-tensorrt", *more]
        found: dict[str, Any] = json.loads(CliRunner().invoke(app, [*command, "-q", "--json"]).stdout)["error"]
        return found

    sparse, a100 = chain.artifact("prune"), ("--target", "a100", "--out", str(tmp_path / "e"))
    assert refused(sparse)["got"] == "no --target"
    assert refused(sparse, *a100, "--rtx-check", "off", "--twin", "none")["got"] == "--rtx-check, --twin"
    assert "--target cpu" in refused(sparse, "--target", "cpu")["got"]
    assert refused(chain.artifact("qat"), *a100)["type"] == "StageOrderError"
    if importlib.util.find_spec("torch_tensorrt") is None:
        found = refused(sparse, *a100)
        assert (found["type"], found["exit_code"]) == ("MissingExtraError", MissingExtraError.exit_code)
        assert ".[torch-tensorrt]" in found["do"]
    assert not (tmp_path / "e").exists()


@pytest.mark.slow
def test_the_engine_of_a_detector_is_held_to_the_boxes_that_were_asked(tmp_path: Path) -> None:
    from gpusq.finishing.from_model import _as_bundle
    from gpusq.stages import Export, Intake
    from gpusq.stages.stage import Context, run_stage

    images = tmp_path / "images"
    images.mkdir()
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (60, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{index}.png")
    context = Context(Store(tmp_path / "store"), open_data(str(images)))
    dense = run_stage(Intake(model="new:vit-detr-mini?size=60"), None, context).artifact
    export = run_stage(Export(samples=2, parity_images=2), dense, context).artifact
    asked = Build(target="a100", box_iou=0.7, score_difference=0.05)
    bundle = _as_bundle(dense, export, asked)
    expected = dict(bundle.expected()[1])
    moved = expected | {"boxes": np.clip(expected["boxes"] * [1, 1, 0.7, 0.7], 0, 1).astype(np.float32)}
    gate = outputs_gate(bundle, expected, moved)
    assert (gate.limits["mean_iou"], gate.limits["score_difference"]) == (0.7, 0.05)
    assert gate.figures["mean_iou"] < 0.7
    assert not gate.passed
    assert outputs_gate(bundle, expected, expected).passed
