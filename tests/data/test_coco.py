"""COCO annotation files: read as they are meant, and refused with the file and the entry where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpusq.data.coco import read_coco
from gpusq.errors import AnnotationError
from tests.data.box_samples import CATEGORIES, coco, write_json


def read(tmp_path: Path, content: Any) -> Any:
    return read_coco(write_json(tmp_path / "x.json", content))


def test_images_objects_and_classes_are_read(tmp_path: Path) -> None:
    annotations = [
        {"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4.5], "area": 9.5, "iscrowd": 1},
        {"image_id": 1, "category_id": 3, "bbox": [0, 0, 2, 2]},
    ]
    file = read(tmp_path, coco(["a.png", "deep/b.png"], annotations))
    assert file.classes == ("cat", "dog")  # in the order of the ids 3 and 7
    assert [image.file_name for image in file.images] == ["a.png", "deep/b.png"]
    assert [image.size for image in file.images] == [(12, 10), (20, 30)]
    assert file.images[0].objects == ()
    first, second = file.images[1].objects
    assert (first.xyxy, first.class_index, first.crowd, first.area) == ((1, 2, 4, 6.5), 1, True, 9.5)
    assert (second.class_index, second.crowd, second.area) == (0, False, None)


def test_a_list_of_images_alone_is_not_annotated(tmp_path: Path) -> None:
    file = read(tmp_path, {"images": coco(["a.png"])["images"]})
    assert not file.annotated
    assert file.classes == ()


def test_text_ids_and_sizes_that_are_not_given_are_read(tmp_path: Path) -> None:
    content = coco([])
    content["images"] = [{"id": "first", "file_name": "a\\b.png"}]
    content["annotations"] = [{"id": "x", "image_id": "first", "category_id": 3, "bbox": [0, 0, 1, 1]}]
    image = read(tmp_path, content).images[0]
    assert (image.file_name, image.size, len(image.objects)) == ("a/b.png", None, 1)


BOX = {"bbox": [1, 1, 2, 2]}


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"image_id": 9, **BOX}, r"annotations\[0\] \(id 1\): its image_id must be listed in images; got 9"),
        ({"category_id": 4, **BOX}, r"\(id 1\): its category_id must be listed in categories; got 4"),
        ({"category_id": True, **BOX}, "category_id must be listed"),
        ({}, r"`bbox` must be \[x, y, width, height\] in pixels; got None"),
        ({"bbox": [1, 2, 3]}, "`bbox` must be"),
        ({"bbox": [1, 2, float("nan"), 4]}, "`bbox` must be a finite number; got nan"),
        ({"bbox": [1, 2, float("inf"), 4]}, "finite"),
        ({"bbox": [1, 2, "wide", 4]}, "finite number; got 'wide'"),
        ({"bbox": [1, 2, None, 4]}, "finite number; got None"),
        ({"bbox": [1, 2, True, 4]}, "finite number; got True"),
        ({"bbox": [1, 2, -3, 4]}, "width and height of at least 0"),
        ({"iscrowd": 2, **BOX}, "`iscrowd` must be 0 or 1; got 2"),
        ({"area": "big", **BOX}, "`area` must be a finite number"),
        ({"area": -4, **BOX}, r"\(id 1\): `area` must be at least 0; got -4"),
        ({"image_id": None, **BOX}, "`image_id` must be a whole number or text"),
        ({"id": 1.5, **BOX}, r"annotations\[0\]: `id` must be a whole number or text"),
    ],
)
def test_objects_that_do_not_fit_are_refused_by_name(tmp_path: Path, annotation: dict[str, Any], message: str) -> None:
    with pytest.raises(AnnotationError, match=message) as caught:
        read(tmp_path, coco(["a.png"], [annotation]))
    assert "x.json" in caught.value.what
    assert caught.value.do


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [{"id": 0, "file_name": "a.png"}] * 2}, r"images\[1\]: id 0 is already that of .*images\[0\]"),
        ({"images": [{"id": i, "file_name": "a.png"} for i in (0, 1)]}, r"a\.png is already .*images\[0\] \(id 0\)"),
        ({"images": [{"id": 0}]}, "`file_name` must be text; got None"),
        ({"images": [{"id": 0, "file_name": "../a.png"}]}, "must stay inside the folder"),
        ({"images": [{"id": 0, "file_name": "/etc/a.png"}]}, "must stay inside the folder"),
        ({"images": [{"id": 0, "file_name": "..\\a.png"}]}, "must stay inside the folder"),
        ({"images": [{"id": 0, "file_name": "a\0.png"}]}, "must be text"),
        (
            {"images": [{"id": 0, "file_name": "a.png", "width": 0, "height": 5}]},
            "`width` must be a whole number from 1",
        ),
        ({"images": [{"id": 0, "file_name": "a.png", "width": 5, "height": 2.5}]}, "`height` must be a whole number"),
        ({"images": ["a.png"]}, r"images\[0\] must be an object; got str"),
        ({"images": {}}, "`images` must be a list; got dict"),
        ({"annotations": None}, "`annotations` must be a list; got NoneType"),
        ({"categories": [{"id": 1, "name": "x"}, {"id": 1, "name": "y"}]}, "already another category's; got id 1"),
        ({"categories": [{"id": 1, "name": "x"}, {"id": 2, "name": "x"}]}, "already another category's; got id 2"),
        ({"categories": [{"id": 1, "name": ""}]}, r"categories\[0\]: `name` must be text"),
        ({"categories": [{"id": "a", "name": "x"}]}, r"categories\[0\]: `id` must be a finite number"),
        ({"categories": []}, "`categories` must name the classes"),
    ],
)
def test_lists_that_do_not_fit_are_refused_by_name(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        read(tmp_path, {**coco(["a.png"], [BOX]), **change})


def test_annotation_ids_used_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"annotations\[1\]: id 5 is already that of .*annotations\[0\]"):
        read(tmp_path, coco(["a.png"], [{"id": 5, **BOX}, {"id": 5, **BOX}]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be JSON"),
        (b'{"images": [', "must be JSON"),
        (b"\xff\xfe\x00", "must be JSON"),
        (b"[" * 100_000, "must be JSON"),
        (b'{"images": [], "n": ' + b"9" * 5000 + b"}", "must be JSON"),
        (b"[]", "COCO object with images, annotations and categories; got list"),
        (b'{"shapes": []}', "got keys shapes"),
    ],
    ids=["empty", "cut", "no-text", "deep", "long-number", "list", "other"],
)
def test_files_that_are_something_else_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(AnnotationError, match=message):
        read_coco(tmp_path / "x.json")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="no regular file"):
        read_coco(tmp_path)


def test_the_sample_is_what_the_tests_believe() -> None:
    assert [c["id"] for c in CATEGORIES] == [7, 3]
