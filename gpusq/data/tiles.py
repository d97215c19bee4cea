"""Large annotated images cut into tiles, as a COCO folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from gpusq.data.boxes import Boxes, seen_through
from gpusq.data.coco_folder import BESIDE
from gpusq.data.imageset import Pixels
from gpusq.errors import DataError

HALF = 0.5


@dataclass(frozen=True)
class AnnotatedImage:
    """An image to cut. name: of its tiles, without a suffix. pixels: uint8 [H, W, 3]. boxes: on the whole image."""

    name: str
    pixels: Pixels
    boxes: Boxes


def grid(length: int, tile: int) -> list[tuple[int, int]]:
    """(begin, end) of parts that cover 0 .. length once: nothing twice, nothing left over, all of about `tile`."""
    count = max(1, round(length / tile))
    edges = [round(i * length / count) for i in range(count + 1)]
    return list(pairwise(edges))


def overlapping(length: int, tile: int, overlap: float) -> list[tuple[int, int]]:
    """(begin, end) of parts of exactly `tile` (or `length` where that is less) that cover 0 .. length.

    Neighbours share at least the part `overlap` (0 <= overlap < 1) of a tile, evenly spread.
    """
    if length <= tile:
        return [(0, length)]
    step = max(1, int(tile * (1 - overlap)))
    count = -(-(length - tile) // step) + 1
    begins = [round(i * (length - tile) / (count - 1)) for i in range(count)]
    return [(begin, begin + tile) for begin in begins]


def tiles_of(image: AnnotatedImage, tile: int, overlap: float | None = None) -> Iterator[AnnotatedImage]:
    """The tiles of one image, row by row, named after the place of their top left pixel: NAME-y0200-x0400.

    overlap: None cuts a grid in which no pixel comes twice (to judge on); a share cuts overlapping squares (to learn
    from). An object of which at least half of the box lies in a tile is an object there; of which less does, a crowd,
    so that a detector is neither rewarded nor blamed for what it makes of the rest. Raises DataError for a tile below
    2 pixels or an overlap outside 0 <= overlap < 1.
    """
    if tile < 2 or not 0 <= (overlap or 0) < 1:
        raise DataError("a tile needs 2 pixels and an overlap of 0 or more, below 1", got=f"{tile} and {overlap}")
    height, width = image.boxes.size
    if image.pixels.shape != (height, width, 3):
        got = f"{list(image.pixels.shape)} and {image.boxes.size}"
        raise DataError(f"{image.name}: pixels and boxes must be of one size", got=got)
    rows, columns = (
        grid(side, tile) if overlap is None else overlapping(side, tile, overlap) for side in (height, width)
    )
    for y0, y1 in rows:
        for x0, x1 in columns:
            boxes = seen_through(image.boxes, (x0, y0, x1, y1), HALF, cut_is_crowd=True)
            yield AnnotatedImage(f"{image.name}-y{y0:04d}-x{x0:04d}", image.pixels[y0:y1, x0:x1], boxes)


def write_coco(folder: Path, images: Sequence[AnnotatedImage], classes: Sequence[str], info: Mapping[str, str]) -> Path:
    """Write NAME.ppm for each image and the annotation file beside them; returns the latter. Parents are made.

    Empty images are listed too. info: stands in the file as it is (source, licence). The files have the same bytes on
    every machine, so that a calibration manifest drawn on one holds on another: PPM stores pixels as they are, while
    the bytes of a PNG depend on the library that packed them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        height, width = image.boxes.size
        (folder / f"{image.name}.ppm").write_bytes(f"P6\n{width} {height}\n255\n".encode() + image.pixels.tobytes())
    path = folder / BESIDE
    path.write_text(json.dumps(coco_of(images, classes, info), indent=1) + "\n", encoding="utf-8")
    return path


def coco_of(images: Sequence[AnnotatedImage], classes: Sequence[str], info: Mapping[str, str]) -> dict[str, Any]:
    """The annotations of images NAME.ppm as a COCO object; ids begin at 1."""
    listed = [
        {"id": i, "file_name": f"{image.name}.ppm", "width": image.boxes.size[1], "height": image.boxes.size[0]}
        for i, image in enumerate(images, start=1)
    ]
    found = [entry for i, image in enumerate(images, start=1) for entry in _entries(i, image.boxes)]
    return {
        "info": dict(info),
        "images": listed,
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, start=1)],
        "annotations": [{"id": i, **entry} for i, entry in enumerate(found, start=1)],
    }


def _entries(image_id: int, boxes: Boxes) -> Iterator[dict[str, Any]]:
    for corners, label, crowd, area in zip(boxes.xyxy(), boxes.classes, boxes.crowd, boxes.area, strict=True):
        x0, y0, x1, y1 = (round(float(value), 3) for value in corners)  # float32 shares are no more exact than that
        yield {
            "image_id": image_id,
            "category_id": int(label) + 1,
            "bbox": [x0, y0, round(x1 - x0, 3), round(y1 - y0, 3)],
            "area": round(float(area), 2),
            "iscrowd": int(crowd),
        }
