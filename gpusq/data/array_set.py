"""An image set that lies in memory as one array of grey images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpusq.data.imageset import Pixels, Task, fingerprint_of
from gpusq.errors import DataError


class ArraySet:
    """Grey images of one size with labels.

    pixels: uint8 [N, H, W]. labels: N integers in 0 .. len(classes) - 1. ids: N different names.
    Raises DataError where these do not fit together.
    """

    supervised = True
    task: Task = "classification"

    def __init__(
        self,
        name: str,
        split: str,
        classes: tuple[str, ...],
        ids: Sequence[str],
        pixels: Pixels,
        labels: NDArray[np.integer],
    ) -> None:
        _check(name, classes, ids, pixels, labels)
        self.name, self.split, self.classes, self.ids = name, split, classes, tuple(ids)
        self.grey_pixels = np.ascontiguousarray(pixels)
        self.grey_pixels.flags.writeable = False
        self._labels = labels.astype(np.int64)
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def label(self, index: int) -> int:
        """The class of image `index`."""
        return int(self._labels[index])

    def image(self, index: int) -> Pixels:
        """RGB uint8 [H, W, 3], the three channels equal."""
        return np.repeat(self.grey_pixels[index][:, :, None], 3, axis=2)

    def content_sha256(self, index: int) -> str:
        """Hex sha256 of the image's grey bytes, row by row."""
        return hashlib.sha256(self.grey_pixels[index].tobytes()).hexdigest()

    def fingerprint(self) -> str:
        """Hex sha256 over ids, pixels, labels and the list of classes; computed once."""
        if self._fingerprint is None:
            names = (self.classes[label] for label in self._labels)
            hashes = map(self.content_sha256, range(len(self)))
            self._fingerprint = fingerprint_of(zip(self.ids, hashes, names, strict=True), self.classes)
        return self._fingerprint


def _check(
    name: str, classes: tuple[str, ...], ids: Sequence[str], pixels: Pixels, labels: NDArray[np.integer]
) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise DataError(f"{name}: images must be uint8 [N, H, W]", got=f"{pixels.dtype} {list(pixels.shape)}")
    if labels.shape != (len(pixels),) or len(ids) != len(pixels) or len(set(ids)) != len(ids):
        got = f"{len(pixels)} images, {len(labels)} labels, {len(set(ids))} different ids"
        raise DataError(f"{name}: each image needs one label and an id of its own", got=got)
    if labels.size and not (labels.min() >= 0 and labels.max() < len(classes)):
        raise DataError(f"{name}: labels must be 0 to {len(classes) - 1}", got=f"{labels.min()} to {labels.max()}")
