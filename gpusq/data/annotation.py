"""What annotation files of every format have in common: one object as written, and what becomes of it on its image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpusq.data.boxes import SLACK_PX, Boxes, Float64, areas, boxes_from_xyxy, clipped, extended
from gpusq.data.decoding import read_size
from gpusq.data.folder import one_line
from gpusq.data.imageset import UnreadableImageError
from gpusq.errors import AnnotationError

OUTSIDE_TOLERANCE = 0.01
NAMED = 5
FARTHEST_PX = 1e9  # beyond, squares of sides leave float32


@dataclass(frozen=True)
class Annotation:
    """One object as its file gives it: (x0, y0, x1, y1) in pixels; area None: that of the box. place: for messages."""

    place: str
    xyxy: tuple[float, float, float, float]
    class_index: int
    crowd: bool = False
    area: float | None = None


@dataclass
class Findings:
    """Counts over the images and objects of one split, as they were read.

    images: images listed. empty: of them without any object. boxes: objects. Of these, crowd: crowds (or "difficult").
    clipped: boxes that reach over the edge of their image, cut there for training. zero_area: boxes without extent;
    outside: boxes wholly outside their image, with the places of the first few; both are never trained on. The metric
    counts all but crowds, with their boxes as annotated: COCO's tools do so.
    """

    images: int = 0
    empty: int = 0
    boxes: int = 0
    crowd: int = 0
    clipped: int = 0
    zero_area: int = 0
    outside: int = 0
    outside_places: list[str] = field(default_factory=list)

    def add(self, boxes: Boxes) -> None:
        """Count one image with its boxes."""
        self.images += 1
        self.empty += not len(boxes)
        self.boxes += len(boxes)
        self.crowd += int(boxes.crowd.sum())

    def sentence(self) -> str:
        """ "20 images (1 without objects), 279 boxes (3 of them crowds)", and what `deviations` names."""
        text = f"{self.images} images ({self.empty} without objects), {self.boxes} boxes ({self.crowd} of them crowds)"
        return "; ".join([text, *self.deviations()])

    def deviations(self) -> list[str]:
        """Counts of boxes that training sees otherwise than annotated, with what becomes of them; empty without any."""
        found = (
            (self.clipped, "reach over the edge of their image (cut there for training, as annotated in AP)"),
            (self.zero_area, "without extent (left out of training, kept in AP)"),
            (self.outside, "wholly outside their image (left out of training, kept in AP)"),
        )
        return [f"{count} {what}" for count, what in found if count]

    def check(self, source: Path) -> None:
        """Raise AnnotationError where more objects lie outside their images than OUTSIDE_TOLERANCE allows."""
        if self.outside > OUTSIDE_TOLERANCE * self.boxes:
            raise AnnotationError(
                f"{source}: at most {OUTSIDE_TOLERANCE:.0%} of the boxes may lie wholly outside their image",
                got=f"{self.outside} of {self.boxes}: {'; '.join(self.outside_places)}",
                do="mend the coordinates (pixels of the image, not shares; the right image size)",
            )


def boxes_on_image(found: Sequence[Annotation], size: tuple[int, int], findings: Findings) -> Boxes:
    """The objects of one image of (height, width) `size`, as annotated, counted in `findings`.

    Boxes that reach outside or have no extent stay as they are, for the metric; `Boxes.learnable` clips and drops.
    Raises AnnotationError for corners further than FARTHEST_PX away.
    """
    corners = np.array([a.xyxy for a in found], np.float64).reshape(-1, 4)
    _check_near(found, corners)
    inside = clipped(corners, (0, 0, size[1], size[0]))
    reaches = np.abs(inside - corners).max(axis=1, initial=0) > SLACK_PX
    _count(found, size, findings, (reaches, ~extended(corners), ~extended(inside)))
    own = np.where(reaches[:, None], corners, inside)  # what is rounding is not kept
    area = np.array([own_area if a.area is None else a.area for a, own_area in zip(found, areas(own), strict=True)])
    crowd = np.array([a.crowd for a in found], np.bool_)
    boxes = boxes_from_xyxy(own, np.array([a.class_index for a in found], np.int64), size, crowd, area)
    findings.add(boxes)
    return boxes


def _check_near(found: Sequence[Annotation], corners: Float64) -> None:
    for annotation, values in zip(found, corners, strict=True):
        if np.abs(values).max() > FARTHEST_PX:
            got = ", ".join(f"{value:g}" for value in values)
            message = f"{annotation.place}: corners must lie within {FARTHEST_PX:g} pixels"
            raise AnnotationError(message, got=got, do="mend the coordinates")


def _count(
    found: Sequence[Annotation], size: tuple[int, int], findings: Findings, kinds: tuple[NDArray[np.bool_], ...]
) -> None:
    """kinds: which boxes reach outside, which have no extent, which have none inside the image."""
    reaches, flat, unseen = kinds
    away = ~flat & unseen
    findings.zero_area += int(flat.sum())
    findings.clipped += int((reaches & ~unseen).sum())
    findings.outside += int(away.sum())
    places = [_described(a, size) for a, out in zip(found, away, strict=True) if out]
    findings.outside_places = [*findings.outside_places, *places][:NAMED]


def _described(annotation: Annotation, size: tuple[int, int]) -> str:
    corners = ", ".join(f"{value:g}" for value in annotation.xyxy)
    return f"{annotation.place} [{corners}] on {size[1]}x{size[0]}"


def size_on_disk(path: Path, place: str) -> tuple[int, int]:
    """(height, width) from the head of an image file, for annotations that do not say. Raises AnnotationError."""
    try:
        return read_size(path)
    except UnreadableImageError as error:
        raise AnnotationError(
            f"{place}: neither the annotations nor the file say how large {path.name} is",
            got=error.got,
            do="mend the image, or write its width and height into the annotations",
        ) from error


def number(value: object, place: str) -> float:
    """A finite number from JSON or XML text. Raises AnnotationError."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        found = float(value)
    except (ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise AnnotationError(f"{place} must be a finite number", got=repr(value)[:80], do="mend the file")
    return found


def whole_number(value: object, place: str, least: int = 0) -> int:
    """A whole number of at least `least`. Raises AnnotationError."""
    found = number(value, place)
    if found != int(found) or found < least:
        got = repr(value)[:80]
        raise AnnotationError(f"{place} must be a whole number from {least}", got=got, do="mend the file")
    return int(found)


def read_bytes(path: Path, most: int) -> bytes:
    """A whole regular file of at most `most` bytes. Raises AnnotationError."""
    try:
        if not path.is_file():  # also keeps away from pipes
            raise AnnotationError(f"{path} must be a file of annotations", got="no regular file", do="give its path")
        if (size := path.stat().st_size) > most:
            raise AnnotationError(f"{path} may have at most {most} bytes", got=str(size), do="split it")
        return path.read_bytes()
    except OSError as error:
        raise AnnotationError(f"{path} cannot be read", got=str(error), do="check the file") from error


def some(names: Sequence[str]) -> str:
    """The count and the first few names: "7: a, b, c, d, e, ..."."""
    more = ", ..." if len(names) > NAMED else ""
    return f"{len(names)}: {', '.join(map(one_line, names[:NAMED]))}{more}"
