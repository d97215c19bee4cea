"""Data named without the word before the colon, or with a wrong one; test images that are training images."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from gpusq.artifacts import Store
from gpusq.data import annotation_notes, open_data
from gpusq.errors import EmptyDataError, UsageError
from gpusq.stages import Prune, Qat, Train
from gpusq.stages.images import check_taught
from gpusq.stages.stage import Context
from tests.data.box_samples import coco, coco_folder, coco_part, write_images, write_json
from tests.data.picture_samples import photo, save


class Detector:
    """What a stage asks of its parent before the work."""

    def read_json(self, name: str) -> dict[str, object]:
        return {"task": "detection", "classes": ["cat", "dog"]}


def test_annotations_that_nobody_asked_for_are_named_where_labels_are_missing(tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "set")
    with pytest.raises(UsageError, match=f"coco:{folder} reads them; .*; supervised = false under .prune. learns"):
        check_taught(open_data(str(folder)).train, "prune")
    for i in range(3):
        save(tmp_path / "voc" / f"{i}.png", photo(i))
    with pytest.raises(UsageError, match="got images without classes; sort"):
        check_taught(open_data(str(tmp_path / "voc")).train, "prune")
    (tmp_path / "voc" / "0.xml").write_text("<annotation/>")
    with pytest.raises(UsageError, match=f"voc:{tmp_path / 'voc'} reads them"):
        check_taught(open_data(str(tmp_path / "voc")).train, "prune")


def test_a_voc_folder_without_xml_says_so(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / f"{i}.png", photo(i))
    context = Context(Store(tmp_path / "store"), open_data(f"voc:{tmp_path}"))
    with pytest.raises(UsageError, match=r"no XML file beside the images of .*; annotate them$"):
        Train(model="new:detr-mini").requires(None, context)


@pytest.mark.parametrize(
    ("spec", "do"),
    [
        ("cocco:some/dir", "did you mean coco:some/dir"),
        ("fashon-mnist:x", "did you mean fashion-mnist:x"),
        ("yolo:some/dir", "give an image folder"),
    ],
)
def test_an_unknown_word_before_the_colon_is_refused_with_the_known_ones(spec: str, do: str) -> None:
    with pytest.raises(EmptyDataError, match="is one of fashion-mnist, coco, voc; got") as caught:
        open_data(spec)
    assert do in caught.value.do


def test_a_folder_with_a_colon_in_its_name_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("cocco:dir") / "x.png", photo(0))
    assert len(open_data("cocco:dir").train) + len(open_data("cocco:dir").test) == 1
    with pytest.raises(EmptyDataError, match="must be a folder of images"):
        open_data("no/such:dir")


@pytest.mark.parametrize("boxes", [[], [{"bbox": [1, 1, 5, 5], "iscrowd": 1}]], ids=["none", "a crowd alone"])
def test_annotations_without_a_box_to_learn_from_are_refused(tmp_path: Path, boxes: list[dict[str, object]]) -> None:
    write_images(tmp_path / "train", ["0.png", "1.png"])
    write_json(tmp_path / "train" / "_annotations.coco.json", coco(["0.png", "1.png"], boxes))
    coco_part(tmp_path / "test", seed=5)
    found = open_data(f"coco:{tmp_path}")
    context = Context(Store(tmp_path / "store"), found)
    wanted = "the training annotations hold boxes .*; got none on 2 images of"
    with pytest.raises(UsageError, match=f"train: {wanted}"):
        Train(model="new:detr-mini").requires(None, context)
    for stage in (Prune(), Qat()):
        with pytest.raises(UsageError, match=f"{stage.name}: {wanted}"):
            stage.requires(Detector(), context)
        replace(stage, supervised=False).requires(Detector(), context)
    check_taught(found.test, "prune")


def test_test_images_that_are_training_images_are_counted(tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "set")
    apart = open_data(f"coco:{folder}")
    assert annotation_notes((apart.train, apart.test)) == []
    same = tmp_path / "same"
    shutil.copytree(folder / "train", same / "train")
    shutil.copytree(folder / "train", same / "test")
    found = open_data(f"coco:{same}")
    (note,) = annotation_notes((found.train, found.test))
    count = len(found.test)
    assert note.startswith(f"{count} of {count} test images are, byte for byte, training images too")
