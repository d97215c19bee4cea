"""The zoo's images: coloured rectangles, drawn from fixed seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

IMAGES, TRAIN, TEST = 80, 240, 24
SIDE = 64
CLASSES = ("rectangle",)
MOST = 3


def write_images(folder: Path) -> str:
    """Rectangles on a slope of colour, without labels: for statistics, not for accuracy. Returns the data's name."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for index in range(IMAGES):
        draw = np.random.default_rng(index)
        slope = np.linspace(0, 160, SIDE)[:, None, None] * draw.random(3)
        pixels = np.broadcast_to(slope, (SIDE, SIDE, 3)).copy()
        for _ in range(4):
            y, x = draw.integers(0, SIDE - 16, 2)
            height, width = draw.integers(8, 32, 2)
            pixels[y : y + height, x : x + width] = draw.integers(0, 256, 3)
        pixels += draw.normal(0, 12, pixels.shape)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index:02d}.png")
    return str(folder)


def write_boxes(folder: Path) -> str:
    """A COCO folder of one to MOST bright rectangles in each image, on dark noise; what a detector learns quickly.

    TRAIN images for training, TEST others for the comparisons. Returns the data's name.
    """
    for split, count, seed in (("train", TRAIN, 0), ("test", TEST, 1)):
        _write_split(folder / split, count, seed)
    return f"coco:{folder}"


def _write_split(folder: Path, count: int, seed: int) -> None:
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for index in range(1, count + 1):
        pixels = draw.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
        for _ in range(int(draw.integers(1, MOST + 1))):
            box = _rectangle(pixels, draw)
            objects.append({"id": len(objects) + 1, "image_id": index, "category_id": 1, "bbox": box, "iscrowd": 0})
            objects[-1]["area"] = box[2] * box[3]
        Image.fromarray(pixels).save(folder / f"{index:03d}.png")
        images.append({"id": index, "file_name": f"{index:03d}.png", "width": SIDE, "height": SIDE})
    categories = [{"id": index, "name": name} for index, name in enumerate(CLASSES, start=1)]
    data = {"images": images, "annotations": objects, "categories": categories}
    (folder / "_annotations.coco.json").write_text(json.dumps(data), encoding="utf-8")


def _rectangle(pixels: np.ndarray, draw: np.random.Generator) -> list[int]:
    """Draw one; its [x, y, width, height]."""
    width, height = (int(v) for v in draw.integers(10, 24, 2))
    x, y = int(draw.integers(0, SIDE - width)), int(draw.integers(0, SIDE - height))
    pixels[y : y + height, x : x + width] = draw.integers(140, 256, 3)
    return [x, y, width, height]
