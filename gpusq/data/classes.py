"""Do the classes of the images match the head of the model?"""

from __future__ import annotations

from collections.abc import Sequence

from gpusq.data.imageset import ImageSet, Task, task_of
from gpusq.errors import ClassMismatchError

NAMED = 5
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

    Names are compared where the two lists share at least one; otherwise (numbers, another language) only the
    count can be. Sets without labels always pass.
    """
    if not imageset.supervised:
        return
    have, head = list(imageset.classes), list(classes_of_model)
    if len(have) != len(head):
        raise ClassMismatchError(
            f"{imageset.name} has {len(have)} classes and the model's head {len(head)}",
            do=_to_fit(imageset, len(have), len(head)),
        )
    if have != head and set(have) & set(head):
        raise ClassMismatchError(
            f"{imageset.name} and the model both have {len(have)} classes, but not the same",
            got=_difference(have, head),
            do=ORDER[task_of(imageset)],
        )


def _to_fit(imageset: ImageSet, have: int, head: int) -> str:
    """What to do about another number of classes."""
    if task_of(imageset) == "detection":
        return f"annotate {head} classes, or give a model with {have}; a head's 'no object' is none of its classes"
    return (
        f"give images in {head} class folders, or a model with {have} classes; "
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
