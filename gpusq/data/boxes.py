"""Boxes on an image: the annotations of one image, and the arithmetic that every user of boxes shares."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gpusq.errors import DataError

Float64 = NDArray[np.float64]
Window = tuple[float, float, float, float]
LEAST_PX = 0.01
"""Sides below this are rounding: float32 shares of an image of some 10,000 pixels are no more exact."""
SLACK_PX = 1e-3
"""A corner this far beyond the edge of an image is rounding, not a box that reaches outside."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """The annotated objects of one image.

    boxes: float32 [n, 4] (centre x, centre y, width, height) as shares of the original image, so they hold for any
    resized copy of it; as annotated, so they may reach outside 0..1 or have no extent. classes: int64 [n], 0 .. K - 1.
    crowd: bool [n], regions that the metric ignores and that nothing is trained on. area: float32 [n] in square pixels
    of the original image (COCO's, which may be that of an outline), by which the metric sorts small from large. size:
    (height, width) of the original image in pixels.
    Raises DataError where these do not fit together.
    """

    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    area: NDArray[np.float32]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        n = len(self.classes)
        arrays = (self.boxes, self.classes, self.crowd, self.area)
        got = ", ".join(f"{array.dtype} {list(array.shape)}" for array in arrays)
        if got != f"float32 [{n}, 4], int64 [{n}], bool [{n}], float32 [{n}]":
            raise DataError("boxes need float32 [n, 4], int64 [n], bool [n] and float32 [n]", got=got)
        if not np.isfinite(self.boxes).all() or min(self.size) < 1:
            raise DataError("boxes must be finite, on an image of at least one pixel", got=f"size {self.size}")

    def __len__(self) -> int:
        return len(self.classes)

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> Boxes:
        """The boxes at `index` (positions or a mask), as copies."""
        return replace(
            self,
            boxes=self.boxes[index],
            classes=self.classes[index],
            crowd=self.crowd[index],
            area=self.area[index],
        )

    def copy(self) -> Boxes:
        """The same boxes in arrays of their own."""
        return self.take(np.arange(len(self)))

    def learnable(self) -> Boxes:
        """What a detector is trained on: no crowds, boxes cut at the edge of the image, none without extent there.

        The metric takes all boxes as they are annotated instead, as COCO's tools do.
        """
        inside, cut, seen = self.within()
        shares = (box_xyxy_to_cxcywh(inside) / pixels_of(self.size)).astype(np.float32)
        return replace(self, boxes=np.where(cut[:, None], shares, self.boxes)).take(seen & ~self.crowd)

    def within(self) -> tuple[Float64, NDArray[np.bool_], NDArray[np.bool_]]:
        """(corners [n, 4] in pixels, clipped to the image; which of them were moved; which have an extent inside)."""
        height, width = self.size
        corners = self.xyxy()
        inside = clipped(corners, (0, 0, width, height))
        cut = np.abs(inside - corners).max(axis=1, initial=0) > SLACK_PX
        return inside, cut, extended(inside)

    def xyxy(self) -> Float64:
        """float64 [n, 4] (x0, y0, x1, y1) in pixels of the original image."""
        return box_cxcywh_to_xyxy(self.boxes.astype(np.float64)) * pixels_of(self.size)


def boxes_from_xyxy(
    xyxy: NDArray[np.floating],
    classes: NDArray[np.integer],
    size: tuple[int, int],
    crowd: NDArray[np.bool_] | None = None,
    area: NDArray[np.floating] | None = None,
) -> Boxes:
    """Boxes from [n, 4] (x0, y0, x1, y1) in pixels of an image of `size`; area: width times height where not given."""
    corners = np.asarray(xyxy, np.float64).reshape(-1, 4)
    shares = box_xyxy_to_cxcywh(corners) / pixels_of(size)
    found = areas(corners) if area is None else area
    none = np.zeros(len(corners), np.bool_)
    return Boxes(
        shares.astype(np.float32),
        np.asarray(classes, np.int64),
        none if crowd is None else np.asarray(crowd, np.bool_),
        np.asarray(found, np.float32),
        size,
    )


def no_boxes(size: tuple[int, int]) -> Boxes:
    """An image without objects."""
    return boxes_from_xyxy(np.empty((0, 4)), np.empty(0, np.int64), size)


def pixels_of(size: tuple[int, int]) -> Float64:
    """(width, height, width, height) of (height, width): what takes shares to pixels."""
    height, width = size
    return np.array([width, height, width, height], np.float64)


def box_cxcywh_to_xyxy(boxes: Float64) -> Float64:
    """[n, 4] (centre x, centre y, width, height) -> [n, 4] (x0, y0, x1, y1)."""
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def box_xyxy_to_cxcywh(boxes: Float64) -> Float64:
    """[n, 4] (x0, y0, x1, y1) -> [n, 4] (centre x, centre y, width, height)."""
    low, high = boxes[:, :2], boxes[:, 2:]
    return np.concatenate([(low + high) / 2, high - low], axis=1)


def areas(xyxy: Float64) -> Float64:
    """[n] of [n, 4] (x0, y0, x1, y1); a box without extent has area 0."""
    sides = np.clip(xyxy[:, 2:] - xyxy[:, :2], 0, None)
    return sides[:, 0] * sides[:, 1]


def extended(xyxy: Float64) -> NDArray[np.bool_]:
    """[n] of [n, 4] (x0, y0, x1, y1) in pixels: whether both sides are longer than rounding."""
    long: NDArray[np.bool_] = xyxy[:, 2:] - xyxy[:, :2] > LEAST_PX
    return long[:, 0] & long[:, 1]


def clipped(xyxy: Float64, window: Window) -> Float64:
    """[n, 4] corners moved into the window (x0, y0, x1, y1)."""
    x0, y0, x1, y1 = window
    return np.clip(xyxy, [x0, y0, x0, y0], [x1, y1, x1, y1])


def seen_through(boxes: Boxes, window: Window, visible: float, cut_is_crowd: bool = False) -> Boxes:
    """The boxes of a picture that is the part `window` (x0, y0, x1, y1, in pixels) of the original image.

    visible: the share 0..1 of what the original image shows of an object's box that must lie inside for it to count;
    an object cut further is left out, or becomes a crowd (cut_is_crowd), so that finding it is neither right nor
    wrong. Crowds stay wherever they reach in. Areas shrink as the boxes do. Boxes without extent are left out. The
    size is that of the window, rounded to whole pixels.
    """
    corners, _, _ = boxes.within()
    inside = clipped(corners, window)
    share = areas(inside) / np.maximum(areas(corners), np.finfo(np.float64).tiny)
    seen = extended(inside)
    whole_enough = seen & (share >= visible - 1e-6)  # float32 boxes: exactly half may come out a little less
    kept = whole_enough | (seen & (boxes.crowd | cut_is_crowd))
    x0, y0, x1, y1 = window
    part = Boxes(
        (box_xyxy_to_cxcywh(inside - [x0, y0, x0, y0]) / [x1 - x0, y1 - y0, x1 - x0, y1 - y0]).astype(np.float32),
        boxes.classes,
        boxes.crowd | ~whole_enough,
        (boxes.area * share).astype(np.float32),
        (max(1, round(y1 - y0)), max(1, round(x1 - x0))),
    )
    return part.take(kept)
