"""Small detection sets for the tests of this room."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpusq.data import Boxes, Detections, boxes_from_xyxy
from tests.data.picture_samples import photo, save

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
SIZES = ((12, 10), (20, 30), (16, 16))


def boxes(corners: Sequence[Sequence[float]], size: tuple[int, int] = (100, 100), **more: Any) -> Boxes:
    """Boxes of class 0 (or `classes`) from corners in pixels."""
    classes = np.array(more.pop("classes", [0] * len(corners)), np.int64)
    return boxes_from_xyxy(np.array(corners, np.float64).reshape(-1, 4), classes, size, **more)


def detections(corners: Sequence[Sequence[float]], scores: Sequence[float], classes: Sequence[int] = ()) -> Detections:
    """Detections of class 0 (or `classes`) from corners in pixels."""
    labels = np.array(classes or [0] * len(scores), np.int64)
    return Detections(np.array(scores, np.float32), labels, np.array(corners, np.float32).reshape(-1, 4))


def coco(names: Sequence[str], annotations: Sequence[Mapping[str, Any]] = (), **more: Any) -> dict[str, Any]:
    """A COCO object for images whose sizes go round SIZES; annotations get ids and a category where they have none."""
    images = [
        {"id": i, "file_name": name, "height": SIZES[i % 3][0], "width": SIZES[i % 3][1]}
        for i, name in enumerate(names)
    ]
    listed = [{"id": i + 1, "category_id": 3, "image_id": 0, **entry} for i, entry in enumerate(annotations)]
    return {"images": images, "annotations": listed, "categories": CATEGORIES, **more}


def write_json(path: Path, content: Any) -> Path:
    """Write JSON, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_images(folder: Path, names: Sequence[str], seed: int = 0) -> None:
    """One picture a name; sizes go round SIZES."""
    for i, name in enumerate(names):
        save(folder / name, photo(seed + i, *SIZES[i % 3]))


def coco_part(folder: Path, count: int = 3, seed: int = 0, **more: Any) -> Path:
    """folder/_annotations.coco.json with `count` images beside it; image i has i % 6 boxes. Returns the file."""
    names = [f"{i}.png" for i in range(count)]
    write_images(folder, names, seed)
    annotations = [
        {"image_id": i, "category_id": (3, 7)[j % 2], "bbox": [j + 0.5, 1, 3, 4 + j]}
        for i in range(count)
        for j in range(i % 6)
    ]
    return write_json(folder / "_annotations.coco.json", {**coco(names, annotations), **more})


def coco_folder(root: Path, train: int = 6, test: int = 3) -> Path:
    """root/train and root/test."""
    coco_part(root / "train", train)
    coco_part(root / "test", test, seed=100)
    return root


def voc_xml(objects: Sequence[tuple[str, Sequence[Any]]], name: str = "", size: tuple[int, int] | None = None) -> str:
    """The text of an annotation file; size: (height, width)."""
    shown = "".join(
        f"<object><name>{label}</name><difficult>0</difficult><bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin>"
        f"<xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
        for label, b in objects
    )
    sides = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><filename>{name}</filename>{sides}{shown}</annotation>"


def voc_part(folder: Path, count: int = 3, seed: int = 0) -> Path:
    """folder/I.png and folder/I.xml; image i has i % 6 objects, cats and dogs in turn."""
    write_images(folder, [f"{i}.png" for i in range(count)], seed)
    for i in range(count):
        objects = [(("cat", "dog")[j % 2], (j, 1, j + 3, 5 + j)) for j in range(i % 6)]
        (folder / f"{i}.xml").write_text(voc_xml(objects, f"{i}.png", SIZES[i % 3]))
    return folder


def voc_folder(root: Path, train: int = 6, test: int = 3) -> Path:
    """root/train and root/test."""
    voc_part(root / "train", train)
    voc_part(root / "test", test, seed=100)
    return root
