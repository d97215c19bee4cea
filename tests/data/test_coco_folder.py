"""COCO folders: every layout opened, every image accounted for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusq.data import BoxSet, DataSpec, DetectionSet, annotation_notes, open_data, task_of
from gpusq.errors import AnnotationError, ClassMismatchError, DataError, EmptyDataError
from tests.data.box_samples import SIZES, coco, coco_folder, coco_part, write_images, write_json


def opened(root: Path) -> DataSpec:
    return open_data(f"coco:{root}")


def boxes_by_id(images: Any) -> dict[str, list[list[float]]]:
    return {own: images.boxes(i).xyxy().round(3).tolist() for i, own in enumerate(images.ids)}


def test_a_folder_with_both_splits_is_opened(tmp_path: Path) -> None:
    data = opened(coco_folder(tmp_path / "pets"))
    assert data.name == "pets"
    assert (len(data.train), len(data.test), data.train.classes) == (6, 3, ("cat", "dog"))
    assert isinstance(data.train, BoxSet)
    assert isinstance(data.train, DetectionSet)
    assert task_of(data.train) == data.train.task == "detection"
    assert data.train.supervised
    assert data.train.label(0) is None
    found = boxes_by_id(data.test)
    assert found["test/0.png"] == []
    assert found["test/2.png"] == [[0.5, 1, 3.5, 5], [1.5, 1, 4.5, 6]]
    two = data.test.boxes(data.test.ids.index("test/2.png"))
    assert two.classes.tolist() == [0, 1]
    assert two.size == SIZES[2] == data.test.image(data.test.ids.index("test/2.png")).shape[:2]


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        (("train.json", "val.json"), ("images/train", "images/val")),
        (("train.json", "test.json"), ("train", "test")),
        (("instances_train2017.json", "instances_val2017.json"), ("train2017", "val2017")),
        (("instances_train.json", "instances_val.json"), ("images/train", "images/val")),
        (("train.json", "valid.json"), ("", "")),
    ],
)
def test_layouts_with_a_folder_of_annotations_are_opened(
    tmp_path: Path, annotations: tuple[str, str], images: tuple[str, str]
) -> None:
    for name, folder, prefix in zip(annotations, images, ("a", "b"), strict=True):
        names = [f"{prefix}{i}.png" for i in range(4)]
        write_images(tmp_path / folder, names)
        write_json(tmp_path / "annotations" / name, coco(names, [{"bbox": [0, 0, 5, 5]}]))
    data = opened(tmp_path)
    assert (len(data.train), len(data.test)) == (4, 4)
    assert sum(len(boxes) for boxes in boxes_by_id(data.train).values()) == 1
    assert all(data.train.image(i).size for i in range(4))


def test_one_folder_of_images_for_both_splits_is_opened(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.png", "b.png"])
    for split, name in (("train", "a.png"), ("val", "b.png")):
        write_json(tmp_path / "annotations" / f"{split}.json", coco([name]))
    data = opened(tmp_path)
    assert (data.train.ids, data.test.ids) == (("images/a.png",), ("images/b.png",))


def test_one_file_is_split_by_the_ids_alone(tmp_path: Path) -> None:
    file = coco_part(tmp_path, count=30)
    data = open_data(f"coco:{file}")
    assert len(data.train) + len(data.test) == 30
    assert 0 < len(data.test) < 15
    assert not set(data.train.ids) & set(data.test.ids)
    moved = shutil.copytree(tmp_path, tmp_path.parent / "moved")
    assert open_data(f"coco:{moved / file.name}").test.ids == data.test.ids


def test_one_file_takes_only_what_it_lists(tmp_path: Path) -> None:
    file = coco_part(tmp_path, count=4)
    write_images(tmp_path, ["stray.png"])
    data = open_data(f"coco:{file}")
    assert len(data.train) + len(data.test) == 4


def test_images_without_any_annotations_are_unlabelled(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_images(tmp_path / split, ["a.png"], seed=len(split))
        write_json(tmp_path / split / "_annotations.coco.json", {"images": coco(["a.png"])["images"]})
    data = opened(tmp_path)
    assert not data.train.supervised
    assert data.train.classes == ()


def test_odd_boxes_are_counted_and_kept_for_the_metric_alone(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(3)]
    write_images(tmp_path / "train", names)
    annotations = [
        {"image_id": 0, "bbox": [0, 0, 4, 4], "iscrowd": 1},
        {"image_id": 0, "bbox": [-2, 3, 5, 5]},  # 10 x 12 pixels: cut at the left edge
        {"image_id": 0, "bbox": [8, 10, 50, 50]},  # cut at the right and the lower edge
        {"image_id": 0, "bbox": [1, 1, 0, 5]},  # no extent
        {"image_id": 1, "bbox": [29, 19, 1, 1]},
        {"image_id": 1, "bbox": [99, 99, 5, 5]},  # outside
        *({"image_id": 1, "bbox": [1, 1, 1, 1]} for _ in range(100)),
    ]
    write_json(tmp_path / "train" / "_annotations.coco.json", coco(names, annotations))
    coco_part(tmp_path / "test", seed=50)
    train = opened(tmp_path).train
    assert isinstance(train, BoxSet)
    found = train.findings
    assert (found.images, found.empty, found.boxes, found.crowd) == (3, 1, 106, 1)
    assert (found.clipped, found.zero_area, found.outside) == (2, 1, 1)
    assert found.sentence() == (
        "3 images (1 without objects), 106 boxes (1 of them crowds); "
        "2 reach over the edge of their image (cut there for training, as annotated in AP); "
        "1 without extent (left out of training, kept in AP); "
        "1 wholly outside their image (left out of training, kept in AP)"
    )
    first = train.boxes(train.ids.index("train/0.png"))
    assert first.xyxy().round(3).tolist() == [[0, 0, 4, 4], [-2, 3, 3, 8], [8, 10, 58, 60], [1, 1, 1, 6]]
    assert first.area.tolist() == [16, 25, 2500, 0]
    assert first.crowd.tolist() == [True, False, False, False]
    assert first.learnable().xyxy().round(3).tolist() == [[0, 3, 3, 8], [8, 10, 10, 12]]


@pytest.mark.parametrize("box", [[2, 3, 5, 5], [-2, 3, 5, 5]])
def test_notes_name_only_what_occurs_and_the_split_it_occurs_in(tmp_path: Path, box: list[float]) -> None:
    coco_folder(tmp_path)
    path = tmp_path / "train" / "_annotations.coco.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "annotations": [{**content["annotations"][0], "bbox": box}]}))
    data = opened(tmp_path)
    reaches = "1 reach over the edge of their image (cut there for training, as annotated in AP)"
    expected = [f"annotations of train: of 1 boxes {reaches}"] if box[0] < 0 else []
    assert annotation_notes((data.train, data.test)) == expected


def test_splits_of_one_file_share_their_note(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(10)]
    write_images(tmp_path, names)
    path = write_json(tmp_path / "all.json", coco(names, [{"image_id": 0, "bbox": [1, 1, 3, 0]}]))
    data = open_data(f"coco:{path}")
    expected = "annotations of train and test: of 1 boxes 1 without extent (left out of training, kept in AP)"
    assert annotation_notes((data.train, data.test)) == [expected]


def test_coordinates_that_no_number_of_pixels_can_be_are_refused(tmp_path: Path) -> None:
    coco_folder(tmp_path)
    write_images(tmp_path / "train", ["0.png"])
    found = coco([f"{i}.png" for i in range(6)], [{"bbox": [0, 0, 1e300, 2]}])
    write_json(tmp_path / "train" / "_annotations.coco.json", found)
    with pytest.raises(AnnotationError, match=r"\(id 1\): corners must lie within 1e\+09 pixels; got 0"):
        opened(tmp_path)


# ---- refusals ----


def test_too_many_boxes_outside_are_refused_by_name(tmp_path: Path) -> None:
    coco_folder(tmp_path)
    annotations = [{"bbox": [0, 0, 2, 2]}, {"bbox": [10, 0, 2, 2]}]  # the second begins at the edge: nothing inside
    write_images(tmp_path / "train", ["0.png"])
    write_json(tmp_path / "train" / "_annotations.coco.json", coco([f"{i}.png" for i in range(6)], annotations))
    with pytest.raises(AnnotationError, match=r"got 1 of 2: .*annotations\[1\] \(id 2\) \[10, 0, 12, 2\] on 10x12"):
        opened(tmp_path)


def test_annotations_without_an_image_are_refused_with_the_first_names(tmp_path: Path) -> None:
    coco_folder(tmp_path, train=9)
    for i in range(1, 9):
        (tmp_path / "train" / f"{i}.png").unlink()
    with pytest.raises(AnnotationError, match=r"not there; got 8: 1\.png, 2\.png, 3\.png, 4\.png, 5\.png, \.\.\."):
        opened(tmp_path)


def test_no_image_at_all_is_refused_with_the_places(tmp_path: Path) -> None:
    coco_folder(tmp_path, train=1)
    (tmp_path / "train" / "0.png").unlink()
    with pytest.raises(AnnotationError, match=r"none of its 1 images is there; got no 0\.png in .*train"):
        opened(tmp_path)


def test_images_without_annotations_are_refused_with_the_first_names(tmp_path: Path) -> None:
    coco_folder(tmp_path)
    write_images(tmp_path / "test", ["new.png", "other.jpg"], seed=7)
    with pytest.raises(AnnotationError, match=r"got 2: .*new\.png, .*other\.jpg listed nowhere"):
        opened(tmp_path)


def test_an_image_in_both_splits_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.png", "b.png"])
    for split in ("train", "val"):
        write_json(tmp_path / "annotations" / f"{split}.json", coco(["a.png", "b.png"]))
    with pytest.raises(AnnotationError, match=r"no image may be in train and in test; got 2: "):
        opened(tmp_path)


def link_of_an_image(folder: Path) -> Path:
    (folder / "link.png").symlink_to(folder / "1.png")
    return folder


def link_of_a_folder(folder: Path) -> Path:
    images = [path for path in folder.iterdir() if path.suffix == ".png"]
    (folder / "own").mkdir()
    for path in images:
        path.rename(folder / "own" / path.name)
    (folder / "link").symlink_to(folder / "own", target_is_directory=True)
    return folder


@pytest.mark.parametrize(
    ("link", "names"),
    [(link_of_an_image, ("1.png", "link.png")), (link_of_a_folder, ("own/1.png", "link/1.png"))],
)
@pytest.mark.parametrize("alone", [False, True], ids=["folder", "file"])
def test_an_image_listed_twice_through_a_link_is_refused(
    tmp_path: Path, link: Callable[[Path], Path], names: tuple[str, str], alone: bool
) -> None:
    """Each entry has boxes of its own; one file can be one image of the set."""
    folder = link(coco_folder(tmp_path, train=2) / "train")
    content = coco([*names], [{"image_id": 0, "bbox": [0, 0, 2, 2]}, {"image_id": 1, "bbox": [1, 1, 2, 2]}])
    for image in content["images"]:
        image |= {"height": SIZES[1][0], "width": SIZES[1][1]}
    file = write_json(folder / "_annotations.coco.json", content)
    expected = rf"images\[1\] \(id 1\): an image may be listed once; got {names[1]} is the same file as \S*{names[0]}"
    with pytest.raises(AnnotationError, match=expected):
        open_data(f"coco:{file if alone else tmp_path}")


@pytest.mark.parametrize(
    "categories",
    [[{"id": 3, "name": "cat"}], [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}]],
    ids=["fewer", "swapped"],
)
def test_splits_with_other_categories_are_refused(tmp_path: Path, categories: list[dict[str, Any]]) -> None:
    coco_folder(tmp_path)
    coco_part(tmp_path / "test", count=1, categories=categories)
    for name in ("1.png", "2.png"):
        (tmp_path / "test" / name).unlink()
    with pytest.raises(ClassMismatchError, match=r"must have the categories of .*train.*3 'cat', 7 'dog'"):
        opened(tmp_path)


def test_one_annotated_split_of_two_is_refused(tmp_path: Path) -> None:
    coco_folder(tmp_path)
    images = coco([f"{i}.png" for i in range(3)])["images"]
    write_json(tmp_path / "test" / "_annotations.coco.json", {"images": images})
    with pytest.raises(ClassMismatchError, match=r"got 2 categories .* and no annotations"):
        opened(tmp_path)


def test_a_folder_with_one_split_is_refused(tmp_path: Path) -> None:
    coco_part(tmp_path / "train")
    with pytest.raises(EmptyDataError, match=r"annotations of train and test; got only .*_annotations\.coco\.json"):
        opened(tmp_path)


def test_a_file_that_lists_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmptyDataError, match="must list images"):
        open_data(f"coco:{write_json(tmp_path / 'x.json', coco([]))}")


@pytest.mark.parametrize("kind", ["coco", "voc"])
def test_nothing_there_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(EmptyDataError):
        open_data(f"{kind}:{tmp_path / 'absent'}")
    with pytest.raises(EmptyDataError, match="must be named"):
        open_data(f"{kind}:")


def test_a_size_that_is_not_given_is_read_from_the_image(tmp_path: Path) -> None:
    file = coco_part(tmp_path, count=3)
    content = coco(["0.png", "1.png", "2.png"], [{"image_id": 1, "bbox": [15, 5, 15, 15]}])
    for image in content["images"]:
        del image["width"]
    write_json(file, content)
    data = open_data(f"coco:{file}")
    sets = {own: boxes for part in (data.train, data.test) for own, boxes in boxes_by_id(part).items()}
    assert sets["1.png"] == [[15, 5, 30, 20]]
    (tmp_path / "1.png").write_bytes(b"broken")
    with pytest.raises(AnnotationError, match=r"neither the annotations nor the file say how large 1\.png is"):
        open_data(f"coco:{file}")


def test_nothing_is_written_or_lost_by_a_refusal(tmp_path: Path) -> None:
    coco_folder(tmp_path)
    write_images(tmp_path / "test", ["new.png"], seed=7)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(DataError):
        opened(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_boxes_are_copies(tmp_path: Path) -> None:
    test = opened(coco_folder(tmp_path)).test
    index = test.ids.index("test/2.png")
    test.boxes(index).boxes[:] = 0
    assert np.asarray(test.boxes(index).boxes).max() > 0
