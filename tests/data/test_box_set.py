"""Detection sets in the loader, in calibration manifests and under a fingerprint."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from gpusq.data import (
    Batch,
    BoxSet,
    DataSpec,
    Loader,
    Preprocess,
    UnreadableImageError,
    class_check,
    draw_manifest,
    load_manifest,
    open_data,
    task_of,
    write_manifest,
)
from gpusq.errors import CalibrationManifestError, ClassMismatchError, CorruptImagesError
from tests.data.box_samples import coco_folder, voc_folder, write_images
from tests.data.picture_samples import array_set, class_folders, photo, save

COLOUR = Preprocess((8, 16), 3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
FOLDERS: dict[str, Callable[..., Path]] = {"coco": coco_folder, "voc": voc_folder}


@pytest.fixture(params=FOLDERS)
def data(request: pytest.FixtureRequest, tmp_path: Path) -> DataSpec:
    return open_data(f"{request.param}:{FOLDERS[request.param](tmp_path / 'pets', train=12)}")


def same(a: Batch, b: Batch) -> bool:
    assert a.targets is not None
    assert b.targets is not None
    pixels = np.array_equal(a.pixel_values, b.pixel_values) and (a.ids, a.skipped) == (b.ids, b.skipped)
    pairs = zip(a.targets, b.targets, strict=True)
    return pixels and all(np.array_equal(x.boxes, y.boxes) and np.array_equal(x.classes, y.classes) for x, y in pairs)


# ---- batches ----


def test_batches_hold_images_of_all_sizes_and_their_boxes(data: DataSpec) -> None:
    train = data.train
    assert isinstance(train, BoxSet)
    wanted = [5, 0, 11, 5]
    batch = Loader(train, COLOUR).batch(wanted)
    assert batch.pixel_values.shape == (4, 3, 8, 16)
    assert (batch.pixel_values == np.stack([COLOUR(train.image(i)) for i in wanted])).all()
    assert batch.labels is None
    assert batch.targets is not None
    assert [len(boxes) for boxes in batch.targets] == [len(train.boxes(i)) for i in wanted]
    assert [boxes.size for boxes in batch.targets] == [train.image(i).shape[:2] for i in wanted]


def test_batches_are_the_same_every_time_from_any_thread(data: DataSpec) -> None:
    loader = Loader(data.train, COLOUR)
    wanted = [[i, (i * 5) % 12, 3] for i in range(12)]
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(loader.batch, wanted))
    fresh = Loader(data.train, COLOUR, cache_bytes=0)
    assert all(same(batch, fresh.batch(indices)) for batch, indices in zip(threaded, wanted, strict=True))


def test_a_batch_may_be_changed_without_changing_the_next(data: DataSpec) -> None:
    loader = Loader(data.train, COLOUR)
    first = loader.arrays()
    assert first.targets is not None
    for boxes in first.targets:
        boxes.boxes[:] = 0
    second = loader.arrays().targets
    assert second is not None
    assert max(boxes.boxes.max(initial=0) for boxes in second) > 0


def test_classification_batches_have_no_boxes(tmp_path: Path) -> None:
    folder = open_data(str(class_folders(tmp_path, each=3))).train
    for images in (array_set(), folder):
        assert Loader(images, COLOUR).batch([0]).targets is None
        assert task_of(images) == "classification"


def test_images_nobody_annotated_have_no_targets(tmp_path: Path) -> None:
    write_images(tmp_path, [f"{i}.png" for i in range(10)])
    train = open_data(f"voc:{tmp_path}").train
    assert isinstance(train, BoxSet)
    batch = Loader(train, COLOUR).arrays()
    assert (batch.labels, batch.targets) == (None, None)
    assert len(train.boxes(0)) == 0
    assert train.boxes(0).size == train.image(0).shape[:2]


def test_unreadable_images_are_skipped_with_their_boxes(data: DataSpec, tmp_path: Path) -> None:
    (tmp_path / "pets" / "train" / "4.png").write_bytes(b"broken")
    loader = Loader(data.train, COLOUR, tolerance=0.1)
    batch = loader.arrays()
    assert batch.skipped == loader.unreadable == ("train/4.png",)
    assert batch.targets is not None
    assert len(batch.targets) == len(batch.ids) == len(batch.pixel_values) == 11
    with pytest.raises(CorruptImagesError, match=r"4\.png"):
        Loader(data.train, COLOUR).arrays()


def test_another_size_than_annotated_counts_as_unreadable(data: DataSpec, tmp_path: Path) -> None:
    save(tmp_path / "pets" / "train" / "4.png", photo(0, 33, 44))
    with pytest.raises(
        UnreadableImageError, match=r"annotations are for 30x20 pixels; got a picture of 44x33, upright"
    ):
        data.train.image(data.train.ids.index("train/4.png"))
    with pytest.raises(CorruptImagesError, match="30x20"):
        Loader(data.train, COLOUR).arrays()


# ---- fingerprints and manifests ----


def test_the_fingerprint_does_not_depend_on_the_place(data: DataSpec, tmp_path: Path) -> None:
    kind = "coco" if list((tmp_path / "pets").rglob("*.json")) else "voc"
    moved = shutil.copytree(tmp_path / "pets", tmp_path / "moved" / "pets")
    assert open_data(f"{kind}:{moved}").train.fingerprint() == data.train.fingerprint()
    assert data.train.fingerprint() != data.test.fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"bbox": [0.5, 1, 3, 4.25]},
        {"category_id": 7},
        {"iscrowd": 1},
        {"area": 1.5},
        {"image_id": 2},
    ],
)
def test_every_part_of_an_annotation_is_in_the_fingerprint(tmp_path: Path, change: dict[str, object]) -> None:
    root = coco_folder(tmp_path)
    before = open_data(f"coco:{root}").train.fingerprint()
    file = root / "train" / "_annotations.coco.json"
    content = json.loads(file.read_text())
    content["annotations"][0].update(change)
    file.write_text(json.dumps(content))
    assert open_data(f"coco:{root}").train.fingerprint() != before


def test_pixels_are_in_the_fingerprint(data: DataSpec, tmp_path: Path) -> None:
    before = data.test.fingerprint()
    save(tmp_path / "pets" / "test" / "1.png", photo(999, 20, 30))
    kind = "coco" if list((tmp_path / "pets").rglob("*.json")) else "voc"
    assert open_data(f"{kind}:{tmp_path / 'pets'}").test.fingerprint() != before


def test_calibration_manifests_are_drawn_and_checked(data: DataSpec, tmp_path: Path) -> None:
    manifest = draw_manifest(data.train, 5, 0)
    write_manifest(manifest, tmp_path / "m.txt")
    indices = load_manifest(tmp_path / "m.txt", data.train)
    assert [data.train.ids[i] for i in indices] == [own for _, own in manifest.entries]
    save(tmp_path / "pets" / manifest.entries[0][1], photo(999, 20, 30))
    with pytest.raises(CalibrationManifestError, match=f"1 changed: {manifest.entries[0][1]}"):
        load_manifest(tmp_path / "m.txt", data.train)


# ---- classes ----


def test_the_classes_of_the_head_pass(data: DataSpec) -> None:
    class_check(data.train, ("cat", "dog"))
    class_check(data.train, ("LABEL_0", "1"))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (
            ("cat", "dog", "no object"),
            r"has 2 classes and the model's head 3; got .*; annotate 3 classes, or give a model with 2",
        ),
        (("dog", "cat"), r"class 0 is 'cat' in the images and 'dog' in the model.*category id.*classes\.txt"),
        (("Katze", "Hund"), "'cat', 'dog' in the images only, 'Hund', 'Katze' in the model only"),
        (("cat", "bird"), "'dog' in the images only, 'bird' in the model only"),
    ],
)
def test_other_classes_are_refused(data: DataSpec, head: tuple[str, ...], message: str) -> None:
    with pytest.raises(ClassMismatchError, match=message) as caught:
        class_check(data.train, head)
    assert "folder" not in caught.value.do


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links on this system")
def test_linked_images_are_read(tmp_path: Path) -> None:
    root = coco_folder(tmp_path / "pets")
    elsewhere = tmp_path / "elsewhere.png"
    (root / "test" / "1.png").rename(elsewhere)
    (root / "test" / "1.png").symlink_to(elsewhere)
    test = open_data(f"coco:{root}").test
    assert test.image(test.ids.index("test/1.png")).shape == (20, 30, 3)
