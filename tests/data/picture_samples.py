"""Small image folders and sets for the tests of this room."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from gpusq.data import ArraySet


def photo(seed: int, height: int = 12, width: int = 10) -> np.ndarray:
    """Random RGB uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    """Write a PNG (or what the suffix says), with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def class_folders(root: Path, classes: tuple[str, ...] = ("cat", "dog"), each: int = 20) -> Path:
    """root/CLASS/IIII.png, all different."""
    for c, name in enumerate(classes):
        for i in range(each):
            save(root / name / f"{i:04d}.png", photo(1000 * c + i))
    return root


def array_set(count: int = 50, side: int = 6, classes: int = 4, seed: int = 0) -> ArraySet:
    """Random grey images with labels in turn."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, side, side), dtype=np.uint8)
    names = tuple(f"class-{c}" for c in range(classes))
    ids = [f"image-{i:03d}" for i in range(count)]
    return ArraySet("squares", "train", names, ids, pixels, np.arange(count) % classes)
