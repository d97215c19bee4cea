"""Flips and crops of training images that take their boxes along."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from gpusq.data.boxes import Boxes, Window, seen_through
from gpusq.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

DRAWS = 8
CENTRE_X, CENTRE_Y = 0, 1


@dataclass(frozen=True)
class BoxAugmentation:
    """What may happen to a training image. Each choice depends on the seed, the step and the image's id alone.

    horizontal, vertical: flip with probability one half (vertical only where up and down look alike, as from the air).
    least_side: the sides of the crop, each drawn between this share and 1 of the image's; the crop is scaled back to
    the full size. 1 crops nothing. visible: the share of an object that must be inside the crop for it to stay.
    Raises DataError where a share is outside 0 < share <= 1.
    """

    horizontal: bool = True
    vertical: bool = False
    least_side: float = 0.6
    visible: float = 0.5

    def __post_init__(self) -> None:
        if not (0 < self.least_side <= 1 and 0 < self.visible <= 1):
            raise DataError("shares must be above 0 and at most 1", got=f"{self.least_side} and {self.visible}")

    def __call__(
        self, images: Tensor, targets: Sequence[Boxes], ids: Sequence[str], seed: int, step: int
    ) -> tuple[Tensor, tuple[Boxes, ...]]:
        """Images [B, C, H, W] and their B boxes, changed; the arguments stay as they are. ids: B names."""
        import torch

        if not len(images) == len(targets) == len(ids):
            got = f"{len(images)}, {len(targets)} and {len(ids)}"
            raise DataError("each image needs its boxes and its id", got=got)
        made = [
            self._one(image, boxes, draws_of(seed, step, own))
            for image, boxes, own in zip(images, targets, ids, strict=True)
        ]
        if not made:
            return images, ()
        return torch.stack([image for image, _ in made]), tuple(boxes for _, boxes in made)

    def _one(self, image: Tensor, boxes: Boxes, draws: tuple[float, ...]) -> tuple[Tensor, Boxes]:
        """One image [C, H, W]."""
        if self.horizontal and draws[0] < 0.5:
            image, boxes = flipped(image, boxes)
        if self.vertical and draws[1] < 0.5:
            image, boxes = flipped(image, boxes, vertical=True)
        if self.least_side < 1:
            image, boxes = cropped(image, boxes, self._window(image.shape[-2:], draws), self.visible)
        return image, boxes

    def _window(self, size: Sequence[int], draws: tuple[float, ...]) -> tuple[int, int, int, int]:
        """(x0, y0, x1, y1) in whole pixels of an input of (height, width) `size`."""
        (y0, y1), (x0, x1) = (
            _part(full, self.least_side, share, place)
            for full, share, place in zip(size, draws[2:4], draws[4:6], strict=True)
        )
        return x0, y0, x1, y1


def draws_of(seed: int, step: int, image_id: str) -> tuple[float, ...]:
    """DRAWS numbers in 0 <= x < 1, the same on every machine and whatever else is in the batch."""
    digest = hashlib.sha256(f"{seed}:{step}:{image_id}".encode()).digest()
    return tuple((np.frombuffer(digest, ">u4") / 2**32).tolist())


def _part(full: int, least: float, share: float, place: float) -> tuple[int, int]:
    """(begin, end) of a part of 0 .. full."""
    side = max(1, round(full * (least + (1 - least) * share)))
    begin = int(place * (full - side + 1))
    return begin, begin + side


def flipped(image: Tensor, boxes: Boxes, vertical: bool = False) -> tuple[Tensor, Boxes]:
    """The mirror image [C, H, W] and its boxes: left for right, or top for bottom."""
    centre = CENTRE_Y if vertical else CENTRE_X
    moved = boxes.boxes.copy()
    moved[:, centre] = 1 - moved[:, centre]
    return image.flip(-2 if vertical else -1), replace(boxes.copy(), boxes=moved)


def cropped(
    image: Tensor, boxes: Boxes, window: tuple[int, int, int, int], visible: float = 0.5
) -> tuple[Tensor, Boxes]:
    """The part `window` (x0, y0, x1, y1, pixels of this image) of [C, H, W], scaled back to H x W, and its boxes.

    An object with less than the share `visible` inside is dropped, crowds never; see boxes.seen_through.
    Raises DataError for a window that is empty or outside.
    """
    from torch.nn import functional as F

    height, width = image.shape[-2:]
    x0, y0, x1, y1 = window
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise DataError(f"a crop must lie in 0, 0, {width}, {height}", got=str(window))
    part = F.interpolate(image[None, :, y0:y1, x0:x1], size=(height, width), mode="bilinear", align_corners=False)
    return part[0], seen_through(boxes, _in_original(window, (height, width), boxes.size), visible)


def _in_original(window: tuple[int, int, int, int], size: tuple[int, int], original: tuple[int, int]) -> Window:
    """The window in pixels of the original image, which the annotations count in."""
    down, across = original[0] / size[0], original[1] / size[1]
    x0, y0, x1, y1 = window
    return x0 * across, y0 * down, x1 * across, y1 * down
