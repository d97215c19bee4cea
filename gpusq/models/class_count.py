"""Does a model have as many classes as it names, and as were asked for?"""

from __future__ import annotations

from collections.abc import Sequence

from gpusq.detection import used_classes
from gpusq.errors import ClassMismatchError
from gpusq.models.source import Raw

NAMED = 8


def check_count(raw: Raw, columns: int, width: int, classes: int | None, asked: Sequence[str]) -> None:
    """Raise ClassMismatchError unless the model names `width` classes, or none, and `classes` asks for as many.

    columns: of its logits; one more than `width` where the last is "no object". Classes of a detector may be asked for
    without the outputs that stand for none (`used_classes`). asked: names of the classes asked for, or ().
    """
    given = f"{columns} columns of logits: {_described(raw, columns, width)}"
    if raw.classes is not None and len(raw.classes) != width:
        raise ClassMismatchError(
            "the classes that a model's facts name are as many as its logits stand for",
            got=f"{len(raw.classes)} names ({_some(raw.classes)}) and {given}",
            do="change the facts or the model's head",
        )
    without_gaps = len(used_classes(raw.classes or ())) if raw.task == "detection" else width
    if classes is not None and classes not in (width, without_gaps):
        wanted = _count(classes) + (f" in the images ({_some(asked)})" if asked else " asked for")
        raise ClassMismatchError(
            "the model has as many classes as the images, or as were asked for",
            got=f"a model with {given}; and {wanted}",
            do=f"give the model a head of {_count(classes)}, or change the images' classes; a function of a model file "
            "that takes an argument `classes` is told their number",
        )


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(repr, names[:NAMED])) + more


def _count(classes: int) -> str:
    return f"{classes} class{'' if classes == 1 else 'es'}"


def _described(raw: Raw, columns: int, width: int) -> str:
    """ "6 classes ('cat', ...), and the last column is 'no object' (softmax)"."""
    count = _count(width)
    named = f" ({_some(raw.classes)})" if raw.classes and len(raw.classes) == width else ""
    if raw.task != "detection":
        return count + named
    if columns > width:
        return f"{count}{named}, and the last column is 'no object' (softmax)"
    return f"{count}{named} (sigmoid: no column is 'no object')"
