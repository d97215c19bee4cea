"""What every image set offers, whatever it is read from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gpusq.data.boxes import Boxes
from gpusq.errors import DataError

Pixels = NDArray[np.uint8]
Task = Literal["classification", "detection"]


class UnreadableImageError(DataError):
    """One file that gives no picture. The loader counts and skips it, up to its tolerance."""


@runtime_checkable
class ImageSet(Protocol):
    """One split of a data set. Image i has the id ids[i]; the order is the same on every machine.

    name: of the data set. split: "train" or "test". classes: names in the order of the labels, () without labels.
    supervised: whether every image has a label, or was looked at for boxes. A set with boxes in place of labels is a
    DetectionSet; see task_of.
    """

    @property
    def name(self) -> str: ...

    @property
    def split(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def supervised(self) -> bool: ...

    @property
    def ids(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def label(self, index: int) -> int | None:
        """0 .. len(classes) - 1, None without labels and for detection."""
        ...

    def image(self, index: int) -> Pixels:
        """RGB uint8 [H, W, 3]. Raises UnreadableImageError."""
        ...

    def content_sha256(self, index: int) -> str:
        """Hex sha256 of the bytes that image(index) is made from."""
        ...

    def fingerprint(self) -> str:
        """Hex sha256 over every id, content hash and class, and the list of classes: what label i means counts too."""
        ...


@runtime_checkable
class DetectionSet(ImageSet, Protocol):
    """An image set with boxes; its task is "detection"."""

    @property
    def task(self) -> Task: ...

    def boxes(self, index: int) -> Boxes:
        """The objects of image `index`; none at all where the set is not supervised."""
        ...


def task_of(imageset: ImageSet) -> Task:
    """What the labels of a set are for; a set that does not say is for classification."""
    return imageset.task if isinstance(imageset, DetectionSet) else "classification"


@dataclass(frozen=True)
class DataSpec:
    """A data set: the images to learn and calibrate from, and the images to judge on."""

    name: str
    train: ImageSet
    test: ImageSet


def fingerprint_of(entries: Iterable[tuple[str, str, str]], classes: Sequence[str]) -> str:
    """Hex sha256 over (id, content sha256, class name) lines, whose order does not matter, and the ordered classes.

    The classes count as a list, since one without an image here (only in the test split, say) moves the labels too.
    """
    lines = sorted(f"{sha256}  {image_id}\t{name}\n" for image_id, sha256, name in entries)
    return hashlib.sha256("".join((json.dumps(list(classes)), "\n", *lines)).encode()).hexdigest()


def order_by_hash(ids: Sequence[str], seed: int) -> list[int]:
    """Indices of `ids` in an order that looks random and depends on the seed and the ids alone.

    No random generator: the same on every platform and library version, and independent of the order given.
    """
    return sorted(range(len(ids)), key=lambda i: (hashlib.sha256(f"{seed}:{ids[i]}".encode()).digest(), ids[i]))
