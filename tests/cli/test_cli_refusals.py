"""Bad input: a typed error that says what, got and do; the documented exit code; the store as it was."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusq.artifacts import Artifact, durable
from tests.chain import CLASSES, FAST, Chain, image_folder, tree
from tests.cli.commands import gpusq, gpusq_json, refused

SETTINGS = [part for setting in FAST for part in ("--set", setting)]
PRUNE = ("--epochs", "0", "--calibration-images", "16", "--batch-size", "16")


@pytest.fixture
def store(chain: Chain, tmp_path: Path) -> Path:
    """A copy of the finished run's store."""
    return chain.copy(tmp_path / "store").root


def flip(artifact: Artifact, store: Path, name: str) -> None:
    """One bit of one payload file, in the copy of the store."""
    path = store / "artifacts" / artifact.path.name / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


# ---- data ----


def test_a_missing_data_folder(chain: Chain, store: Path, tmp_path: Path) -> None:
    dense = chain.artifact("intake").digest[:12]
    refused(store, "EmptyDataError", 3, ("nowhere", "nothing there"), "prune", dense, "--data", tmp_path / "nowhere")
    compress = ("compress", "--model", "new:vit-test", "--data", tmp_path / "nowhere")
    refused(store, "EmptyDataError", 3, ("nowhere",), *compress)


def test_an_empty_data_folder(chain: Chain, store: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    dense = chain.artifact("intake").digest[:12]
    refused(store, "EmptyDataError", 3, ("empty", "no images"), "prune", dense, "--data", tmp_path / "empty")


def test_a_stage_without_data(chain: Chain, store: Path) -> None:
    refused(store, "UsageError", 2, ("--data",), "prune", chain.artifact("intake").digest[:12])
    refused(store, "UsageError", 2, ("--data",), "compress", "--model", "new:vit-test")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def test_truncated_images_beyond_one_percent(chain: Chain, store: Path, tmp_path: Path) -> None:
    images = image_folder(tmp_path / "images", each=16)  # 64 for training
    truncate(images / "train" / CLASSES[1] / "003.png")
    dense = chain.artifact("intake").digest[:12]
    options = ("--epochs", "0", "--calibration-images", "64")
    refused(store, "CorruptImagesError", 3, ("003.png", "1.00%"), "prune", dense, "--data", images, *options)


def test_truncated_images_up_to_one_percent_are_skipped(chain: Chain, store: Path, tmp_path: Path) -> None:
    images = image_folder(tmp_path / "images", each=26)  # 104 for training
    truncate(images / "train" / CLASSES[1] / "003.png")
    dense = chain.artifact("intake").digest[:12]
    options = ("--epochs", "1", "--batch-size", "26", "--calibration-images", "104")
    made = gpusq_json("prune", dense, "--data", images, *options, "--store", store)
    assert made["kind"] == "sparse"
    assert not made["reused"]


def test_classes_that_do_not_match_the_head(chain: Chain, store: Path, tmp_path: Path) -> None:
    images = image_folder(tmp_path / "three", each=4, classes=CLASSES[:3])
    dense, sparse = (chain.artifact(s).digest[:12] for s in ("intake", "prune"))
    for command, parent in (("prune", dense), ("qat", sparse)):
        options = ("--data", images, "--epochs", "1", "--batch-size", "4")
        refused(store, "ClassMismatchError", 3, ("3 classes", "head 4"), command, parent, *options)
    reused = ("compress", "--model", f"artifact:{dense}", "--data", images)
    refused(store, "ClassMismatchError", 3, ("3 classes", "head 4"), *reused)
    fresh = ("compress", "--model", "new:vit-test", "--classes", "5", "--data", images)
    refused(store, "ClassMismatchError", 3, ("3 classes", "head 5"), *fresh)


def test_supervised_training_without_labels(chain: Chain, store: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in sorted((chain.images / "train" / CLASSES[0]).iterdir()):
        shutil.copy(path, flat / path.name)
    dense = chain.artifact("intake").digest[:12]
    refused(store, "UsageError", 2, ("supervised = false",), "prune", dense, "--data", flat, "--epochs", "1")
    refused(store, "UsageError", 2, ("labels",), "train", "--model", "new:vit-test", "--data", flat)


# ---- models ----


def hf_directory(path: Path, spoil: Any = None) -> Path:
    """A tiny transformers ViT, as save_pretrained writes it, with its weights changed by `spoil`."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = ViTConfig(image_size=16, patch_size=4, num_labels=len(CLASSES), **sizes)
    ViTForImageClassification(config).save_pretrained(path)
    if spoil is not None:
        weights = load_file(path / "model.safetensors")
        spoil(weights)
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(chain: Chain, store: Path, tmp_path: Path, value: float) -> None:
    def spoil(weights: dict[str, Any]) -> None:
        weights["classifier.weight"][2, 5] = value

    model = f"hf:{hf_directory(tmp_path / 'model', spoil)}"
    for command in (("prune", model), ("compress", "--model", model)):
        needles = ("classifier.weight", "[2, 5]", str(value))
        refused(store, "NonFiniteError", 4, needles, *command, "--data", chain.images)


ODD_MODEL = """
from torch import nn

def build():
    layers = nn.Sequential(nn.Flatten(), nn.Linear(48, 30), nn.GELU(), nn.Linear(30, 8), nn.GELU(), nn.Linear(8, 4))
    return layers, {"input_shape": (3, 4, 4), "classes": 4}
"""


def test_a_reduction_that_four_does_not_divide(chain: Chain, store: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(ODD_MODEL)
    dense = gpusq_json("intake", "--model", f"{tmp_path / 'odd.py'}:build", "--store", store)
    layers = json.loads((Path(dense["path"]) / "layers.json").read_text())
    odd = next(x for x in layers if x["k"] == 30)
    assert "4" in odd["why_dense"]
    command = ("prune", dense["digest"][:12], "--data", chain.images, *PRUNE, "--also-prune", odd["name"])
    refused(store, "PatternError", 4, (odd["name"], "30"), *command)


def test_a_layer_name_that_matches_nothing(chain: Chain, store: Path) -> None:
    dense, sparse = (chain.artifact(s).digest[:12] for s in ("intake", "prune"))
    data = ("--data", chain.images, *PRUNE)
    refused(store, "UsageError", 2, ("encoder.7",), "prune", dense, *data, "--keep-dense", "encoder.7")
    refused(store, "UsageError", 2, ("encoder.7",), "qat", sparse, *data, "--keep-float", "encoder.7")


@pytest.mark.parametrize("model", ["hf:/no/such/directory", "new:vit-tset", "/no/such/file.py:build"])
def test_a_model_that_is_not_there(chain: Chain, store: Path, model: str) -> None:
    refused(store, "UnsupportedModelError", 4, (), "compress", "--model", model, "--data", chain.images)


# ---- recipes, settings, order, targets ----


def test_an_unknown_recipe_key(chain: Chain, store: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[qat]\nlerning_rate = 1e-3\n")
    needles = (str(path), "[qat]", "'lerning_rate'", "did you mean 'learning_rate'?")
    refused(store, "RecipeError", 2, needles, "compress", "--recipe", path, "--data", chain.images)


@pytest.mark.parametrize(
    ("setting", "needle"),
    [
        ("qat.epochs=many", "'epochs'"),
        ("qat.learn_scales=3", "'learn_scales'"),
        ("prune.score=best", "'score'"),
        ("prune.batch_size=0", "batch_size"),
        ("qat.epochs=-1", "epochs"),
        ("qat.epochs=nan", "epochs"),
        ("qta.epochs=1", "did you mean 'qat'?"),
        ("epochs=1", "STAGE.KEY=VALUE"),
        ("build.targets=cpu", "targets"),
    ],
)
def test_a_wrong_setting(chain: Chain, store: Path, setting: str, needle: str) -> None:
    command = ("compress", "--model", "new:vit-test", "--data", chain.images, "--set", setting)
    kind = "UsageError" if setting in ("prune.batch_size=0", "qat.epochs=-1", "qat.epochs=nan") else "RecipeError"
    refused(store, kind, 2, (needle,), *command)


@pytest.mark.parametrize(
    ("command", "stage", "expected"),
    [
        ("qat", "export", "sparse or dense"),
        ("qat", "build", "sparse or dense"),
        ("prune", "qat", "dense"),
        ("prune", "prune", "dense"),
        ("export", "build", "dense or sparse or quantized"),
        ("build", "intake", "onnx"),
        ("build", "qat", "onnx"),
    ],
)
def test_a_wrong_stage_order(chain: Chain, store: Path, command: str, stage: str, expected: str) -> None:
    parent = chain.artifact(stage, target="cpu" if stage == "build" else None)
    data = () if command == "build" else ("--data", chain.images)
    needles = (f"{command} takes an artifact of kind {expected}", parent.kind, "the order is")
    refused(store, "StageOrderError", 2, needles, command, parent.digest[:12], *data)


def test_compress_from_an_artifact_that_is_no_dense_model(chain: Chain, store: Path) -> None:
    onnx = chain.artifact("export").digest[:12]
    refused(store, "StageOrderError", 2, ("dense", "onnx"), "compress", "-m", f"artifact:{onnx}", "-d", chain.images)


def test_an_unknown_target(chain: Chain, store: Path) -> None:
    onnx = chain.artifact("export").digest[:12]
    refused(store, "UnknownTargetError", 2, ("a100",), "build", onnx, "--target", "a1000")
    compress = ("compress", "--model", "new:vit-test", "--data", chain.images, "--target", "agx-thor")
    refused(store, "UnknownTargetError", 2, ("agx-orin",), *compress)


def test_a_calibration_manifest_that_is_missing_or_wrong(chain: Chain, store: Path, tmp_path: Path) -> None:
    sparse = chain.artifact("prune").digest[:12]
    qat = ("qat", sparse, "--data", chain.images, *PRUNE, "--calibration")
    refused(store, "UsageError", 2, ("none.txt",), *qat, tmp_path / "none.txt")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe not a manifest")
    refused(store, "CalibrationManifestError", 3, ("bad.txt",), *qat, tmp_path / "bad.txt")
    gpusq_json("calibration", "draw", "--data", "digits", "-n", 4, "--out", tmp_path / "digits.txt")
    refused(store, "CalibrationManifestError", 3, ("digits.txt", "4 images missing"), *qat, tmp_path / "digits.txt")


# ---- artifacts and stores ----


@pytest.mark.parametrize("name", ["weights.safetensors", "masks.safetensors", "layers.json", "artifact.json"])
def test_an_artifact_with_one_flipped_bit(chain: Chain, store: Path, name: str) -> None:
    sparse = chain.artifact("prune")
    flip(sparse, store, name)
    reference = store / "artifacts" / sparse.path.name
    refused(store, "TamperedArtifactError", 5, (sparse.path.name,), "qat", reference, "--data", chain.images, *PRUNE)
    checked = gpusq("verify", "--store", store, "--json")
    assert checked.exit_code == 1
    problems = json.loads(checked.stdout)["problems"]
    assert len(problems) == 1
    assert name in problems[0]


def test_an_engine_with_one_flipped_bit_is_never_loaded(chain: Chain, store: Path) -> None:
    engine = chain.artifact("build", target="cpu")
    flip(engine, store, "model.onnx")
    refused(store, "TamperedArtifactError", 5, ("model.onnx",), "bench", engine.digest[:12])


def test_a_torn_artifact_under_the_key_of_the_run(chain: Chain, store: Path) -> None:
    sparse = chain.artifact("prune")
    path = store / "artifacts" / sparse.path.name / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    command = ("compress", "--model", "new:vit-test", "--data", chain.images, *SETTINGS)
    refused(store, "TamperedArtifactError", 5, ("weights.safetensors", "run the stage again"), *command)


def test_a_newer_schema(chain: Chain, store: Path) -> None:
    sparse = chain.artifact("prune")
    path = store / "artifacts" / sparse.path.name / "artifact.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 9'))
    qat = ("qat", path.parent, "--data", chain.images, *PRUNE)
    refused(store, "NewerSchemaError", 5, ("schema 9", "upgrade"), *qat)
    (store / "store.json").write_text('{"schema_version": 9}')
    refused(store, "NewerSchemaError", 5, ("schema 9", "upgrade"), "list")
    refused(store, "NewerSchemaError", 5, ("schema 9", "upgrade"), *qat)


def test_names_that_answer_to_nothing(store: Path, tmp_path: Path) -> None:
    refused(store, "ArtifactNotFoundError", 5, ("0123456789",), "show", "0123456789")
    error = refused(store, "ArtifactNotFoundError", 5, ("yesterday",), "report", "yesterday")
    assert "use one of" in error["do"]
    result = gpusq("list", "--store", tmp_path / "none", "--json")
    assert result.exit_code == 5
    assert not (tmp_path / "none").exists()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel refuses to let any file of this process grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("stage", ["prune", "export"])
def test_no_space_while_a_stage_writes(chain: Chain, store: Path, stage: str) -> None:
    parent = chain.artifact({"prune": "intake", "export": "qat"}[stage]).digest[:12]
    options = {"prune": (*PRUNE, "--seed", 3), "export": ("--samples", 3)}[stage]
    with largest_file(20_000):
        error = refused(store, "StoreFullError", 6, ("bytes free",), stage, parent, "--data", chain.images, *options)
    assert "free some space" in error["do"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_no_space_while_sealing(chain: Chain, store: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def full(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(durable.os, "rename", full)
    dense = chain.artifact("intake").digest[:12]
    command = ("prune", dense, "--data", chain.images, *PRUNE, "--seed", 3)
    refused(store, "StoreFullError", 6, (os.strerror(code),), *command)


def test_an_internal_error_has_its_own_code(chain: Chain, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpusq.stages import pruning

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(pruning, "prune_layer", broken)
    before = tree(store)
    dense = chain.artifact("intake").digest[:12]
    command = ("prune", dense, "--data", chain.images, *PRUNE, "--seed", 3, "--store", store)
    result = gpusq(*command)
    assert result.exit_code == 70
    assert "ZeroDivisionError: oops" in result.stderr
    assert tree(store) == before
    monkeypatch.setenv("GPUSQ_DEBUG", "1")
    assert isinstance(gpusq(*command).exception, ZeroDivisionError)


def test_ctrl_c_has_its_own_code_and_leaves_nothing(chain: Chain, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpusq.stages import pruning

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pruning, "prune_layer", stop)
    before = tree(store)
    dense = chain.artifact("intake").digest[:12]
    result = gpusq("prune", dense, "--data", chain.images, *PRUNE, "--seed", 3, "--store", store)
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert tree(store) == before


def test_finishing_a_bundle_without_tensorrt(chain: Chain, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    bundle = store / "artifacts" / chain.artifact("build", target="a100-40gb").path.name
    refused(store, "MissingExtraError", 9, ("tensorrt", "gpusq[tensorrt]"), "build", bundle)


def test_a_damaged_bundle_is_refused_before_tensorrt_is_looked_for(chain: Chain, store: Path) -> None:
    bundle = chain.artifact("build", target="a100-40gb")
    flip(bundle, store, "model.fp16.onnx")
    refused(store, "TamperedArtifactError", 5, ("model.fp16.onnx",), "build", store / "artifacts" / bundle.path.name)


def test_samples_are_real_images(chain: Chain) -> None:
    """The stored samples are what the loader gives for the first test images, so a device can check itself."""
    from safetensors.numpy import load

    from gpusq.stages.images import loader_of

    onnx = chain.artifact("export")
    stored = load(onnx.read("samples.safetensors"))["pixel_values"]
    data = chain.context(None).images("test").test  # type: ignore[arg-type]
    expected = loader_of(data, onnx.read_json("model.json")).batch(range(len(stored))).pixel_values
    assert np.array_equal(stored, expected)
