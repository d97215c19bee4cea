"""Bad input: a typed error that says what, got and do; the documented exit code; the store as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.chain import CLASSES, Chain, hf_directory, image_folder
from tests.cli.commands import gpusq, gpusq_json, refused

PRUNE = ("--epochs", "0", "--calibration-images", "16", "--batch-size", "16")


@pytest.fixture
def store(chain: Chain, tmp_path: Path) -> Path:
    """A copy of the finished run's store."""
    return chain.copy(tmp_path / "store").root


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
    result = gpusq("prune", dense, "--data", images, *options, "--store", store, "--json")
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert made["kind"] == "sparse"
    assert not made["reused"]
    note = f"104/104 1 unreadable image skipped: train/{CLASSES[1]}/003.png"
    for what in ("training images", "block losses"):
        assert f"prune: {what} {note}" in result.stderr


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
