"""A stage that wrote something wrong says so, and nothing is sealed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save_file

from gpusq.artifacts import Artifact
from gpusq.engines import onnxruntime_engine
from gpusq.errors import (
    CheckError,
    GpusqError,
    NonFiniteError,
    ParityError,
    SignatureError,
    SparsityCheckError,
    TamperedArtifactError,
)
from gpusq.graph import model_file
from gpusq.stages import Build, Intake, Train, model_files
from gpusq.stages.stage import Stage, run_stage
from tests.chain import Chain, after, tree

QUERY = "attention.q_proj"


def refused(
    chain: Chain, tmp_path: Path, stage: Stage, parent: Artifact | None, error: type[GpusqError], match: str
) -> None:
    """The stage raises, and the store is byte for byte what it was."""
    store = chain.copy(tmp_path / "store")
    before = tree(store.root)
    with pytest.raises(error, match=match) as caught:
        run_stage(stage, parent, chain.context(store))
    assert type(caught.value) is error
    assert tree(store.root) == before


def spoil_tensors(file: str, change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[..., None]:
    """After save_model(state, out): rewrite one safetensors file."""

    def spoil(_: Any, out: Path) -> None:
        tensors = load((out / file).read_bytes())
        change(tensors)
        save_file(tensors, out / file)

    return spoil


def a_sparse_layer(chain: Chain) -> str:
    return next(x["name"] for x in chain.artifact("prune").read_json("layers.json") if not x["why_dense"])


def set_value(name: str, value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].view(-1)[0] = value

    return change


def fill_group(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    """The first four weights of a row become non-zero."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name][0, :4] = tensors[name].abs().max()

    return change


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_intake_catches_a_written_value_that_is_not_finite(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    spoil = spoil_tensors("weights.safetensors", set_value("model.classifier.weight", value))
    monkeypatch.setattr(model_files, "save_model", after(model_files.save_model, spoil))
    refused(chain, tmp_path, Intake("new:vit-test", classes=4, seed=5), None, NonFiniteError, "model.classifier.weight")


def test_train_catches_a_written_nan(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil = spoil_tensors("weights.safetensors", set_value("model.classifier.bias", float("nan")))
    monkeypatch.setattr(model_files, "save_model", after(model_files.save_model, spoil))
    stage = Train(model="new:vit-test", epochs=0.25, batch_size=16)
    refused(chain, tmp_path, stage, None, NonFiniteError, "model.classifier.bias")


def test_prune_catches_a_weight_that_is_not_2_4(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = a_sparse_layer(chain)
    spoil = spoil_tensors("weights.safetensors", fill_group(f"{layer}.weight"))
    monkeypatch.setattr(model_files, "save_model", after(model_files.save_model, spoil))
    stage = replace(chain.recipe.prune, seed=5)
    refused(chain, tmp_path, stage, chain.artifact("intake"), SparsityCheckError, f"{layer}.*1 groups")


@pytest.mark.parametrize(
    ("file", "change", "error", "match"),
    [
        (
            "scales.safetensors",
            lambda name: set_value(f"{name}.weight_quantizer", float("nan")),
            NonFiniteError,
            "NaN|nan",
        ),
        ("scales.safetensors", lambda name: set_value(f"{name}.weight_quantizer", 0.1), NonFiniteError, "FP16"),
        ("scales.safetensors", lambda name: set_value(f"{name}.weight_quantizer", 2.0**-20), NonFiniteError, "FP16"),
        ("weights.safetensors", lambda name: fill_group(f"{name}.weight"), SparsityCheckError, "2:4"),
        ("weights.safetensors", lambda name: set_value(f"{name}.bias", float("inf")), NonFiniteError, "bias"),
    ],
    ids=["nan-scale", "no-fp16-scale", "tiny-scale", "not-2-4", "inf-bias"],
)
def test_qat_catches(
    chain: Chain,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    change: Callable[[str], Callable[[dict[str, torch.Tensor]], None]],
    error: type[GpusqError],
    match: str,
) -> None:
    layer = a_sparse_layer(chain)
    spoil = spoil_tensors(file, change(layer))
    monkeypatch.setattr(model_files, "save_model", after(model_files.save_model, spoil))
    refused(chain, tmp_path, replace(chain.recipe.qat, epochs=0.0, seed=5), chain.artifact("prune"), error, match)


def spoiled_bytes(change: Callable[[Any], None]) -> Callable[[Any], bytes]:
    """model_bytes of the model with its initializers changed."""
    real = model_file.model_bytes

    def write(model: Any) -> bytes:
        copy = model_file.read_model(real(model))
        change(copy)
        return real(copy)

    return write


def change_one(kind: str, index: int) -> Callable[[Any], None]:
    """Another value at `index` of the first matrix of floats ("f") or integers ("i"); zeros stay zeros."""

    def change(model: Any) -> None:
        import onnx_ir as ir

        for value in model.graph.initializers.values():
            array = value.const_value.numpy().copy()
            if array.dtype.kind == kind and array.ndim == 2 and min(array.shape) > 1:
                place = np.flatnonzero(array)[index]
                array.flat[place] = -array.flat[place]
                value.const_value = ir.tensor(array, name=value.name)
                return
        raise LookupError(kind)

    return change


def test_export_catches_one_other_float_weight(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "model_bytes", spoiled_bytes(change_one("f", 0)))
    stage = replace(chain.recipe.export, samples=5)
    refused(chain, tmp_path, stage, chain.artifact("intake"), ParityError, "export")


def test_export_catches_one_other_integer(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "model_bytes", spoiled_bytes(change_one("i", 3)))
    stage = replace(chain.recipe.export, samples=5)
    refused(chain, tmp_path, stage, chain.artifact("qat"), ParityError, "1 of .* values differ")


def test_export_catches_integers_that_are_not_2_4(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(model: Any) -> None:
        import onnx_ir as ir

        for value in model.graph.initializers.values():
            array = value.const_value.numpy()
            if array.dtype == np.int8 and array.ndim == 2:
                value.const_value = ir.tensor(np.full_like(array, 3), name=value.name)

    monkeypatch.setattr(model_file, "model_bytes", spoiled_bytes(fill))
    stage = replace(chain.recipe.export, samples=5)
    refused(chain, tmp_path, stage, chain.artifact("qat"), SparsityCheckError, "2:4")


def test_export_catches_another_signature(chain: Chain, tmp_path: Path) -> None:
    frozen = chain.artifact("export").read("signature.json").decode()
    assert "logits" in frozen
    (tmp_path / "signature.json").write_text(frozen.replace("logits", "scores"))
    stage = replace(chain.recipe.export, signature=str(tmp_path / "signature.json"))
    refused(chain, tmp_path, stage, chain.artifact("qat"), SignatureError, "logits|scores")


def test_build_catches_an_engine_of_another_model(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mirrored(model: Any) -> None:
        """Every float weight negated: the order of the classes turns round."""
        import onnx_ir as ir

        for value in model.graph.initializers.values():
            array = value.const_value.numpy()
            if array.dtype == np.float32 and array.ndim == 2:
                value.const_value = ir.tensor(-array, name=value.name)

    real = onnxruntime_engine.build

    def build(onnx: bytes, out: Path) -> None:
        model = model_file.read_model(onnx)
        mirrored(model)
        real(model_file.model_bytes(model), out)

    monkeypatch.setattr(onnxruntime_engine, "build", build)
    stage = replace(chain.recipe.build, target="cpu", agreement=0.98, max_batch=7)
    refused(chain, tmp_path, stage, chain.artifact("export", "dense twin"), ParityError, "onnxruntime engine")


def test_build_catches_another_graph_in_the_bundle(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpusq import engines

    real = engines.write_bundle
    other = chain.artifact("export", "dense twin").read("model.fp16.onnx")

    def write(out: Path, **given: Any) -> Any:
        return real(out, **{**given, "fp16_onnx": other})

    monkeypatch.setattr(engines, "write_bundle", write)
    stage = replace(chain.recipe.build, target="a100", max_batch=7)
    refused(chain, tmp_path, stage, chain.artifact("export"), CheckError, "model.fp16.onnx")


def test_build_catches_a_bundle_that_does_not_read_back(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpusq import engines

    def flip(out: Path, **_: Any) -> None:
        data = bytearray((out / "model.fp16.onnx").read_bytes())
        data[len(data) // 2] ^= 1
        (out / "model.fp16.onnx").write_bytes(data)

    monkeypatch.setattr(engines, "write_bundle", after(engines.write_bundle, flip))
    stage = replace(chain.recipe.build, target="a100", max_batch=7)
    refused(chain, tmp_path, stage, chain.artifact("export"), TamperedArtifactError, "model.fp16.onnx")


def test_build_refuses_a_graph_that_tensorrt_does_not_take(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpusq.engines import tensorrt_rtx
    from gpusq.engines.rtx_layers import RtxCheck
    from gpusq.errors import EngineError

    bad = RtxCheck("8.0", False, 1.0, 0, errors=("node 7: unsupported type",))
    monkeypatch.setattr(tensorrt_rtx, "check_build", lambda *_, **__: (bad,))
    stage: Stage = Build(target="a100", rtx_check="required", max_batch=7)
    refused(chain, tmp_path, stage, chain.artifact("export"), EngineError, "unsupported type")
