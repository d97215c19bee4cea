"""Do the classes of the images match the head of the model, and which of its outputs is which class?"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gpusq.data.boxes import Boxes
from gpusq.data.imageset import DetectionSet, ImageSet, Pixels, Task, task_of
from gpusq.detection import used_classes
from gpusq.errors import ClassMismatchError

NAMED = 5
WORDNET_ID = re.compile(r"n\d{8}")
FRESH_HEAD = "`gpusq intake --classes {}` makes a fresh head for as many"
ORDER: dict[Task, str] = {
    "classification": (
        "name the class folders as the model does, and give the model its classes in the order of the names"
    ),
    "detection": (
        "give the annotations the model's classes in the model's order: by category id in COCO files, one name a line "
        "in classes.txt for Pascal VOC"
    ),
}


def class_check(imageset: ImageSet, classes_of_model: Sequence[str]) -> None:
    """Raise ClassMismatchError unless the head has one output for each class, in the same order.

    Names are compared; where one side's all stand for nothing (`are_placeholders`) only the count can be. Sets without
    labels always pass.
    """
    if not imageset.supervised:
        return
    have, head = list(imageset.classes), list(classes_of_model)
    if output_of_class(imageset, head) is not None:
        return
    if len(have) != len(head):
        raise ClassMismatchError(
            f"{imageset.name} has {len(have)} classes and the model's head {len(head)}",
            got=f"{_some(have)} in the images, {_some(head)} in the model",
            do=_to_fit(imageset, len(have), len(head)),
        )
    if have != head and not are_placeholders(have) and not are_placeholders(head):
        raise ClassMismatchError(
            f"{imageset.name} and the model both have {len(have)} classes, but not the same",
            got=_difference(have, head),
            do=ORDER[task_of(imageset)],
        )


def are_placeholders(names: Sequence[str]) -> bool:
    """Whether no name says what its class is: numbers, "LABEL_7", "N/A", or WordNet's ids of ImageNet's folders."""
    return not any(name for name in used_classes(names) if not name.isdigit() and not WORDNET_ID.fullmatch(name))


def output_of_class(imageset: ImageSet, classes_of_model: Sequence[str]) -> tuple[int, ...] | None:
    """For each class of an annotated detection set the model's output, where its head has outputs without a class.

    Heads trained on COCO with one output for each category id have such gaps: the set's classes are those named in
    the head, no more and no less, whatever their order. None for every other head and set: `class_check` judges them.
    """
    used, names = used_classes(classes_of_model), list(imageset.classes)
    once = sum(name in used for name in classes_of_model) == len(used)
    gaps = len(classes_of_model) > len(used) > 0
    if task_of(imageset) != "detection" or not (imageset.supervised and gaps and once):
        return None
    return tuple(used[name] for name in names) if set(names) == set(used) else None


def in_model_classes(imageset: ImageSet, classes_of_model: Sequence[str]) -> ImageSet:
    """The same images with boxes of the model's own class numbers, where its head has outputs without a class.

    Any other set as it is. What is learned from and judged by the boxes then speaks of the model's outputs.
    """
    outputs = output_of_class(imageset, classes_of_model)
    if outputs is None or not isinstance(imageset, DetectionSet):
        return imageset
    return Renumbered(imageset, tuple(classes_of_model), outputs)


class Renumbered:
    """A detection set whose class i is output outputs[i] of a model; classes: names of all the model's outputs."""

    task: Task = "detection"

    def __init__(self, imageset: DetectionSet, classes: tuple[str, ...], outputs: Sequence[int]) -> None:
        self._set, self._outputs = imageset, np.asarray(outputs, np.int64)
        self.name, self.split, self.classes = imageset.name, imageset.split, classes
        self.supervised, self.ids = imageset.supervised, imageset.ids

    def __len__(self) -> int:
        return len(self._set)

    def label(self, index: int) -> None:
        """Always None: the labels of a detection set are its boxes."""

    def image(self, index: int) -> Pixels:
        """RGB uint8 [H, W, 3]. Raises UnreadableImageError."""
        return self._set.image(index)

    def content_sha256(self, index: int) -> str:
        """Hex sha256 of the bytes that image(index) is made from."""
        return self._set.content_sha256(index)

    def fingerprint(self) -> str:
        """Hex sha256 over the set's own and the model's classes."""
        return hashlib.sha256(json.dumps([self._set.fingerprint(), list(self.classes)]).encode()).hexdigest()

    def boxes(self, index: int) -> Boxes:
        """The objects of image `index` with the model's class numbers."""
        found = self._set.boxes(index)
        return replace(found, classes=self._outputs[found.classes])


def _to_fit(imageset: ImageSet, have: int, head: int) -> str:
    """What to do about another number of classes."""
    if task_of(imageset) == "detection":
        first = f"annotate {head} classes, or give a model with {have}; a head's 'no object' is none of its classes"
        return f"{first}; {FRESH_HEAD.format(have)}"
    return (
        f"give images in {head} class folders, or a model with {have} classes; {FRESH_HEAD.format(have)}; "
        "images without labels go in one flat folder"
    )


def _difference(have: list[str], head: list[str]) -> str:
    """Names on one side only, or the first place where the order differs."""
    extra, missing = sorted(set(have) - set(head)), sorted(set(head) - set(have))
    if extra or missing:
        return f"{_some(extra)} in the images only, {_some(missing)} in the model only"
    first = next(i for i, (a, b) in enumerate(zip(have, head, strict=True)) if a != b)
    return f"class {first} is {have[first]!r} in the images and {head[first]!r} in the model"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(repr, names[:NAMED])) + more if names else "none"
