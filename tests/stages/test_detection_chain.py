"""A detector through the whole chain: trained on drawn squares, compressed, exported, built, judged by COCO AP."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gpusq.artifacts import Store
from gpusq.data import open_data
from gpusq.detection import CONFIDENT
from gpusq.engines.bundle import BOX_LIMITS
from gpusq.errors import ClassMismatchError, ParityError, UsageError
from gpusq.models import load_model
from gpusq.pictures import detection_pictures
from gpusq.pipeline import Compressed, compress
from gpusq.recipe import Recipe, apply_settings
from gpusq.scoring import accuracy_of
from gpusq.stages import Sensitivity, Train
from gpusq.stages.stage import Context, run_stage
from tests.chain import quick_timings

SETTINGS = (
    "train.epochs=40",
    "train.batch_size=8",
    "train.augment=true",
    "train.least_crop=1.0",
    "train.vertical_flips=true",
    "prune.epochs=2",
    "prune.learning_rate=1e-4",
    "prune.batch_size=8",
    "prune.calibration_images=16",
    "qat.epochs=1",
    "qat.batch_size=8",
    "qat.calibration_images=16",
    "export.samples=4",
    "build.runtime=onnxruntime",
    "build.rtx_check=off",
)
"""The bars of export and build are not among them: the detector has learnt enough for those that hold by default."""
TEST_IMAGES = 12
LEAST_AP50 = 0.4
"""Measured: 0.77 with these seeds, 0.57 to 0.74 with three other pairs and 50 epochs; one epoch gives 0.10."""
LEAST_KEPT = 0.9
"""Share of the dense engine's AP50 that the 2:4 INT8 engine keeps; measured 1.02, in other runs 0.99 to 1.06."""


def squares(root: Path, count: int, seed: int) -> None:
    """`count` images of 64 x 64 with one to three bright squares, and their COCO file; the last image is empty."""
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True)
    images, annotations = [], []
    for index in range(count):
        pixels = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
        for _ in range(0 if index == count - 1 else int(rng.integers(1, 4))):
            x, y, side = int(rng.integers(0, 44)), int(rng.integers(0, 44)), int(rng.integers(10, 20))
            pixels[y : y + side, x : x + side] = 230
            box = [x, y, side, side]
            annotations.append({"id": len(annotations) + 1, "image_id": index + 1, "category_id": 1, "bbox": box})
            annotations[-1] |= {"area": side * side, "iscrowd": 0}
        Image.fromarray(pixels).save(root / f"{index}.png")
        images.append({"id": index + 1, "file_name": f"{index}.png", "width": 64, "height": 64})
    data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
    (root / "_annotations.coco.json").write_text(json.dumps(data), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder with train and test, drawn alike."""
    root = tmp_path_factory.mktemp("squares")
    squares(root / "train", 32, 0)
    squares(root / "test", TEST_IMAGES, 1)
    return root


def context_on(folder: Path, store: Path) -> Context:
    """A context on the squares."""
    return Context(store=Store(store), data=open_data(f"coco:{folder}"))


def recipe_on(folder: Path) -> Recipe:
    """The whole chain for cpu and a100."""
    recipe = replace(Recipe(), model="new:vit-detr-mini?size=60", data=f"coco:{folder}", targets=("cpu", "a100"))
    return apply_settings(recipe, SETTINGS)


@pytest.fixture(scope="module", params=[pytest.param(SETTINGS, id="learned", marks=pytest.mark.slow)])
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Compressed, Context]:
    """One finished run of a detector that finds squares. What rests on it is slow, the other tests are not."""
    context = context_on(folder, tmp_path_factory.mktemp("detection") / "store")
    with quick_timings():
        return compress(recipe_on(folder), context), context


def artifact_of(result: Compressed, kind: str, role: str = "model") -> object:
    """The artifact of a kind and role."""
    return next(s.done.artifact for s in result.steps if s.done.artifact.kind == kind and s.role == role)


def test_every_stage_is_judged_by_average_precision_over_the_boxes(run: tuple[Compressed, Context]) -> None:
    result, context = run
    boxes = sum(len(context.images("test").test.boxes(i)) for i in range(TEST_IMAGES))  # type: ignore[attr-defined]
    stages = {row.artifact.stage for row in result.report.rows}
    assert stages == {"train", "prune", "qat", "export", "build"}
    for row in result.report.rows:
        assert row.accuracy is not None
        assert (row.accuracy.metric, row.accuracy.n) == ("AP", boxes)
        assert set(row.accuracy.also) == {"AP50", "AP75"}
        assert row.accuracy.also["AP50"] >= row.accuracy.value


def test_the_detector_finds_squares_and_keeps_finding_them_when_2_4_and_int8(run: tuple[Compressed, Context]) -> None:
    result, context = run
    found = {
        (a.kind, step.role): accuracy_of(a, context)
        for step in result.steps
        if (a := step.done.artifact).kind in ("dense", "sparse", "quantized", "engine")
    }
    ap50 = {key: accuracy.also["AP50"] for key, accuracy in found.items() if accuracy and accuracy.also}
    assert len(ap50) == len(found) == 5
    assert ap50["dense", "model"] > LEAST_AP50
    assert ap50["engine", "dense twin"] > LEAST_AP50
    assert ap50["engine", "model"] > LEAST_KEPT * ap50["engine", "dense twin"]
    rows = {row.artifact.variant: row.accuracy for row in result.report.rows if row.artifact.kind == "engine"}
    assert rows["sparse-int8"] == found["engine", "model"]


def test_the_bars_that_hold_by_default_judged_boxes_that_the_detector_is_sure_of(
    run: tuple[Compressed, Context],
) -> None:
    from gpusq.engines import read_bundle

    result, _ = run
    recipe = apply_settings(Recipe(), SETTINGS)
    bars = ("agreement", "box_iou", "score_difference", "faint_agreement")
    assert [getattr(recipe.export, b) for b in (*bars, "fp16_agreement")] == [0.995, 0.9, 0.05, 0.75, 0.99]
    assert [getattr(recipe.build, b) for b in bars] == [0.95, 0.85, 0.1, 0.75]
    for role in ("model", "dense twin"):
        exported = artifact_of(result, "onnx", role).read_json("export.json")  # type: ignore[attr-defined]
        assert exported["parity_fp32"]["matched"] >= TEST_IMAGES
        assert exported["parity_fp32"]["mean_iou"] > 0.9
        bundle = read_bundle(artifact_of(result, "bundle", role).path)  # type: ignore[attr-defined]
        _, expected = bundle.expected()
        sure = 1 / (1 + np.exp(-expected["logits"])) >= CONFIDENT
        assert sure.sum() >= len(sure), "fewer: unsure detections would have been judged instead"
        assert json.loads(bundle.files[BOX_LIMITS]) == {"mean_iou": 0.85, "score": 0.1, "faint": 0.75}


def test_the_detector_is_sparse_and_int8_and_its_files_name_both_outputs(run: tuple[Compressed, Context]) -> None:
    result, _ = run
    onnx = artifact_of(result, "onnx")
    names = [entry["name"] for entry in onnx.read_json("signature.json")["outputs"]]  # type: ignore[attr-defined]
    assert names == ["logits", "boxes"]
    final = next(r for r in result.report.rows if r.artifact.kind == "engine" and r.artifact.variant == "sparse-int8")
    assert final.coverage is not None
    assert final.coverage.sparse > 0.8
    assert final.coverage.int8 > 0.8


def test_the_bundle_carries_the_task_and_both_expected_outputs(run: tuple[Compressed, Context]) -> None:
    from gpusq.engines import read_bundle

    result, _ = run
    bundle = read_bundle(artifact_of(result, "bundle").path)  # type: ignore[attr-defined]
    images, expected = bundle.expected()
    assert bundle.task == "detection"
    assert set(expected) == {"logits", "boxes"}
    assert len(images) == len(expected["boxes"]) == 4


def test_pictures_show_both_engines_and_the_truth(run: tuple[Compressed, Context]) -> None:
    result, context = run
    engines = {"dense": artifact_of(result, "engine", "dense twin"), "2:4 INT8": artifact_of(result, "engine")}
    found = detection_pictures(engines, context, 2).pictures  # type: ignore[arg-type]
    assert len(found) == 2
    assert all("2:4 INT8" in picture.svg and "2:4 INT8" in picture.caption for picture in found)


def test_a_second_run_reuses_every_stage(run: tuple[Compressed, Context], folder: Path) -> None:
    _, context = run
    with quick_timings():
        again = compress(recipe_on(folder), context)
    assert all(step.done.reused for step in again.steps)


def test_sensitivity_of_a_detector_counts_points_of_average_precision(run: tuple[Compressed, Context]) -> None:
    result, context = run
    quick = Sensitivity(images=8, calibration_images=4, max_drop=100.0, score="magnitude")
    done = run_stage(quick, artifact_of(result, "dense"), context)  # type: ignore[arg-type]
    found = done.artifact.read_json("sensitivity.json")
    assert found["metric"] == "AP"
    assert found["dense"] > 0.1
    assert any(loss["both"]["points"] for loss in found["blocks"].values())
    assert all(loss["both"]["error"] > 0 for loss in found["blocks"].values())


def test_an_export_whose_boxes_moved_is_not_sealed(
    run: tuple[Compressed, Context], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpusq.engines.onnxruntime_engine import OnnxRuntimeRunner
    from gpusq.stages import Export

    result, context = run
    own = OnnxRuntimeRunner.outputs

    def moved(self: OnnxRuntimeRunner, pixels: np.ndarray) -> dict[str, np.ndarray]:
        found = own(self, pixels)
        return {**found, "boxes": found["boxes"] * 0.5}

    monkeypatch.setattr(OnnxRuntimeRunner, "outputs", moved)
    dense = artifact_of(result, "dense")
    with pytest.raises(ParityError, match="ONNX Runtime and PyTorch"):
        run_stage(Export(samples=2, parity_images=4), dense, context)  # type: ignore[arg-type]


def test_refuses_annotations_whose_categories_do_not_match_the_head(
    run: tuple[Compressed, Context], folder: Path, tmp_path: Path
) -> None:
    from gpusq.stages import Prune

    result, context = run
    for split in ("train", "test"):
        squares(tmp_path / "two" / split, 4, 3)
        path = tmp_path / "two" / split / "_annotations.coco.json"
        data = json.loads(path.read_text(encoding="utf-8"))
        data["categories"].append({"id": 2, "name": "circle"})
        path.write_text(json.dumps(data), encoding="utf-8")
    other = replace(context, data=open_data(f"coco:{tmp_path / 'two'}"))
    before = sorted(a.digest for a in context.store.artifacts())
    with pytest.raises(ClassMismatchError, match="2 classes"):
        run_stage(Prune(epochs=0.5), artifact_of(result, "dense"), other)  # type: ignore[arg-type]
    assert sorted(a.digest for a in context.store.artifacts()) == before


def test_refuses_class_folders_for_a_detector_and_boxes_for_a_classifier(
    run: tuple[Compressed, Context], folder: Path, tmp_path: Path
) -> None:
    from gpusq.stages import Intake, Qat

    result, context = run
    other = replace(context, data=open_data("digits"))
    with pytest.raises(ClassMismatchError, match="the model does detection"):
        run_stage(Qat(epochs=0, calibration_images=2), artifact_of(result, "sparse"), other)  # type: ignore[arg-type]
    boxes = context_on(folder, tmp_path / "store")
    dense = run_stage(Intake(model="new:vit-test", classes=1), None, replace(boxes, data=None)).artifact
    with pytest.raises(ClassMismatchError, match="the model does classification"):
        run_stage(Qat(epochs=0, calibration_images=2), dense, boxes)


def test_frozen_parameters_keep_their_values_and_the_others_learn(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load

    context = context_on(folder, tmp_path / "store")
    train = Train(model="new:vit-detr-mini?size=60", epochs=0.5, batch_size=4, freeze=("encoder.*",))
    learned = load(run_stage(train, None, context).artifact.read("weights.safetensors"))
    fresh = load_model("new:vit-detr-mini?size=60", classes=1, seed=0).module.state_dict()
    changed = {name for name, value in fresh.items() if not learned[name].equal(value)}
    assert changed
    assert not any(name.startswith("encoder.") for name in changed)
    with pytest.raises(UsageError, match="no parameter is called 'backbone"):
        run_stage(replace(train, freeze=("backbone.*",)), None, context)


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan")])
def test_a_crop_is_a_share_of_the_image(share: float) -> None:
    with pytest.raises(UsageError, match="least_crop"):
        Train(model="new:vit-detr-mini", least_crop=share)


def test_without_crops_training_images_are_only_flipped(folder: Path) -> None:
    train = Train(model="new:vit-detr-mini?size=60", batch_size=2, augment=True, vertical_flips=True, least_crop=1.0)
    images = open_data(f"coco:{folder}").train
    description = load_model(train.model, classes=1, seed=0).description
    plain = replace(train, augment=False).batches(images, description)([0, 1], 3)
    augmented = train.batches(images, description)
    seen = set()
    for step in range(12):
        for image, original in zip(augmented([0, 1], step).images, plain.images, strict=True):
            same = [torch.equal(image.flip(d) if d else image, original) for d in ((), (-1,), (-2,), (-1, -2))]
            assert any(same)
            seen.add(same.index(True))
    assert len(seen) >= 3
