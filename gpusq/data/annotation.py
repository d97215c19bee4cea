"""What annotation files of every format have in common: one object as written, and what becomes of it on its image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gpusq.data.boxes import Boxes, areas, boxes_from_xyxy, clipped
from gpusq.data.decoding import read_size
from gpusq.data.folder import one_line
from gpusq.data.imageset import UnreadableImageError
from gpusq.errors import AnnotationError

OUTSIDE_TOLERANCE = 0.01
NAMED = 5
SLACK_PX = 1e-3  # a corner this far beyond the edge is rounding, not a box outside


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

    images: images listed. empty: of them without any object. boxes: objects kept. crowd: of them crowds (or
    "difficult"), for the metric only. clipped: of them cut at the edge of their image. zero_area: objects without
    extent, dropped. outside: objects wholly outside their image, dropped; the places of the first few.
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
        """Count one image with the boxes that were kept."""
        self.images += 1
        self.empty += not len(boxes)
        self.boxes += len(boxes)
        self.crowd += int(boxes.crowd.sum())

    def sentence(self) -> str:
        """ "20 images, 279 boxes (3 of them crowds); 2 clipped at an edge", without what did not occur."""
        text = f"{self.images} images ({self.empty} without objects), {self.boxes} boxes ({self.crowd} of them crowds)"
        notes = (
            (self.clipped, "clipped at the edge of their image"),
            (self.zero_area, "dropped for having no extent"),
            (self.outside, "dropped for lying outside their image"),
        )
        return "; ".join([text, *(f"{count} {what}" for count, what in notes if count)])

    def check(self, source: Path) -> None:
        """Raise AnnotationError where more objects lie outside their images than OUTSIDE_TOLERANCE allows."""
        if self.outside > OUTSIDE_TOLERANCE * (self.boxes + self.outside):
            raise AnnotationError(
                f"{source}: at most {OUTSIDE_TOLERANCE:.0%} of the boxes may lie wholly outside their image",
                got=f"{self.outside} of {self.boxes + self.outside}: {'; '.join(self.outside_places)}",
                do="mend the coordinates (pixels of the image, not shares; the right image size)",
            )


def boxes_on_image(found: Sequence[Annotation], size: tuple[int, int], findings: Findings) -> Boxes:
    """The objects of one image of (height, width) `size`, clipped to it and counted in `findings`.

    Objects without extent and objects wholly outside are left out, and counted too.
    """
    height, width = size
    corners = np.array([a.xyxy for a in found], np.float64).reshape(-1, 4)
    inside = clipped(corners, (0, 0, width, height))
    flat, seen = areas(corners) <= 0, areas(inside) > 0
    moved = seen & (np.abs(inside - corners).max(axis=1, initial=0) > SLACK_PX)
    away = ~flat & ~seen
    findings.zero_area += int(flat.sum())
    findings.clipped += int(moved.sum())
    findings.outside += int(away.sum())
    places = [_described(a, size) for a, out in zip(found, away, strict=True) if out]
    findings.outside_places = [*findings.outside_places, *places][:NAMED]
    kept = [a for a, stays in zip(found, seen, strict=True) if stays]
    own = areas(inside[seen])
    area = np.array([own[i] if a.area is None else a.area for i, a in enumerate(kept)], np.float64)
    crowd = np.array([a.crowd for a in kept], np.bool_)
    boxes = boxes_from_xyxy(inside[seen], np.array([a.class_index for a in kept], np.int64), size, crowd, area)
    findings.add(boxes)
    return boxes


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
