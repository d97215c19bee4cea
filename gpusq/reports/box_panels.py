"""What a picture of boxes shows, before it is drawn: for each image a row of panels, the last of them the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpusq.errors import DataError

Pixels = NDArray[np.uint8]
TRUTH = "ground truth"
FOUND_COLOURS = ("#ff9d3b", "#4fc3ff", "#ff6fb5", "#b79cff")
TRUTH_COLOUR = "#ffe94a"


class Found(Protocol):
    """Detections of one image: scores [n], classes [n], boxes [n, 4] (x0, y0, x1, y1) in its pixels."""

    @property
    def scores(self) -> NDArray[np.floating]: ...

    @property
    def classes(self) -> NDArray[np.integer]: ...

    @property
    def boxes(self) -> NDArray[np.floating]: ...


class Truth(Protocol):
    """Annotations of one image: classes [n], crowd [n], boxes [n, 4] (cx, cy, w, h) as shares of the image."""

    @property
    def classes(self) -> NDArray[np.integer]: ...

    @property
    def crowd(self) -> NDArray[np.bool_]: ...

    @property
    def boxes(self) -> NDArray[np.floating]: ...


@dataclass(frozen=True)
class Mark:
    """One box in shares 0..1 of the panel. ignored: drawn with a broken line (crowds)."""

    x0: float
    y0: float
    x1: float
    y1: float
    label: str = ""
    ignored: bool = False


@dataclass(frozen=True)
class Panel:
    """The image with the boxes of one source. title: above it. colour: "#rrggbb"."""

    title: str
    colour: str
    marks: tuple[Mark, ...]


def rows_of_panels(
    images: Sequence[Pixels],
    named_detections: Mapping[str, Sequence[Found]],
    targets: Sequence[Truth],
    threshold: float,
    classes: Sequence[str] = (),
) -> list[tuple[Panel, ...]]:
    """For each image the panels of all detectors in the order of the mapping, then the ground truth.

    images: uint8 [H, W, 3] each. threshold: detections with a lower score are left out. classes: names, shown where
    there are several. Raises DataError where the lists differ in length, an image is of another kind, or the
    threshold is outside 0..1.
    """
    counts = {len(images), len(targets), *map(len, named_detections.values())}
    if len(counts) > 1:
        raise DataError("each image needs its detections and its boxes", got=" and ".join(map(str, sorted(counts))))
    if not 0 <= threshold <= 1:
        raise DataError("the threshold is a score from 0 to 1", got=str(threshold))
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise DataError("an image must be uint8 [H, W, 3]", got=f"{image.dtype} {list(image.shape)}")
    return [
        (
            *(
                _found_panel(name, FOUND_COLOURS[k % len(FOUND_COLOURS)], found[i], image, threshold, classes)
                for k, (name, found) in enumerate(named_detections.items())
            ),
            _truth_panel(targets[i], classes),
        )
        for i, image in enumerate(images)
    ]


def _found_panel(
    name: str, colour: str, found: Found, image: Pixels, threshold: float, classes: Sequence[str]
) -> Panel:
    height, width = image.shape[:2]
    shown = np.flatnonzero(found.scores >= threshold)
    shares = np.clip(found.boxes[shown] / np.array([width, height, width, height]), 0, 1)
    marks = tuple(
        _mark(box, _label(int(found.classes[i]), classes, f"{100 * float(found.scores[i]):.0f}"))
        for i, box in zip(shown, shares, strict=True)
    )
    return Panel(f"{name}: {len(marks)} with a score of {100 * threshold:.0f} % or more", colour, marks)


def _truth_panel(truth: Truth, classes: Sequence[str]) -> Panel:
    low, high = truth.boxes[:, :2] - truth.boxes[:, 2:] / 2, truth.boxes[:, :2] + truth.boxes[:, 2:] / 2
    shares = np.clip(np.concatenate([low, high], axis=1), 0, 1)
    marks = tuple(
        _mark(box, _label(int(label), classes, ""), bool(crowd))
        for box, label, crowd in zip(shares, truth.classes, truth.crowd, strict=True)
    )
    ignored = int(truth.crowd.sum())
    more = f", {ignored} ignored" if ignored else ""
    return Panel(f"{TRUTH}: {len(marks) - ignored}{more}", TRUTH_COLOUR, marks)


def _mark(box: NDArray[np.floating], label: str, ignored: bool = False) -> Mark:
    x0, y0, x1, y1 = (float(share) for share in box)
    return Mark(x0, y0, x1, y1, label, ignored)


def _label(index: int, classes: Sequence[str], score: str) -> str:
    """The class, where there are several, and the score in percent."""
    name = (classes[index] if index < len(classes) else str(index)) if len(classes) != 1 else ""
    return " ".join(part for part in (name, score) if part)


def alt_text(panels: Sequence[Panel], caption: str = "") -> str:
    """The row in words."""
    parts = "; ".join(panel.title for panel in panels)
    return f"{caption + ': ' if caption else ''}the same image {len(panels)} times with boxes around objects. {parts}."
