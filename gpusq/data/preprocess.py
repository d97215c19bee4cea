"""From uint8 pictures to the float32 arrays that a model takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gpusq.data.imageset import Pixels
from gpusq.errors import DataError, MissingExtraError

Resize = Literal["bilinear", "bicubic", "nearest", "lanczos"]
GREY_WEIGHTS = (19595, 38470, 7471)  # ITU-R 601-2 luma in 1/65536, rounded as Pillow's mode L does
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Preprocess:
    """How a model wants its images: resized to `size` (no crop, sides not kept in proportion), 0..1, (x - mean) / std.

    size: (height, width) in pixels. channels: 1 (grey) or 3 (RGB). mean, std: one value per channel, for 0..1.
    resize: Pillow's filter of that name, which averages when it shrinks. Raises DataError where these do not fit.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Resize = "bilinear"

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise DataError(f"preprocessing needs {problem}", got=str(self), do="mend the model's description")

    def _problem(self) -> str:
        if len(self.size) != 2 or min(self.size) < 1:
            return "a size of (height, width) in pixels"
        if self.channels not in (1, 3):
            return "1 or 3 channels"
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            return "one mean and one std for each channel"
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            return "finite means and positive stds"
        return "" if self.resize in get_args(Resize) else f"resize to be one of {', '.join(get_args(Resize))}"

    def __call__(self, image: Pixels) -> Float32:
        """uint8 [H, W, 3] -> float32 [C, H', W']."""
        values: Float32 = self.normalised(self.resized(image)[None])[0]
        return values

    def resized(self, image: Pixels) -> Pixels:
        """uint8 [H, W, 3] or grey [H, W] -> uint8 [C, H', W'], or [1, H', W'] where the input is grey."""
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
            raise DataError("an image must be uint8 [H, W, 3] or [H, W]", got=f"{image.dtype} {list(image.shape)}")
        if image.ndim == 3 and self.channels == 1:
            image = grey_of(image)
        if image.shape[:2] != self.size:
            image = self._with_pillow(image)
        return image[None] if image.ndim == 2 else np.ascontiguousarray(image.transpose(2, 0, 1))  # HWC -> CHW

    def _with_pillow(self, image: Pixels) -> Pixels:
        try:
            from PIL import Image
        except ImportError as error:
            raise MissingExtraError("pillow", "host", "resizing images") from error
        height, width = self.size
        small = Image.fromarray(np.ascontiguousarray(image)).resize(
            (width, height), Image.Resampling[self.resize.upper()]
        )
        return np.asarray(small)

    def normalised(self, pixels: Pixels) -> Float32:
        """uint8 [B, C or 1, H, W] -> float32 [B, C, H, W]; one grey channel is spread over all C."""
        scale, shift = self._affine()
        shape = (len(pixels), self.channels, *pixels.shape[2:])
        values = np.empty(shape, np.float32)
        for channel in range(self.channels):
            source = pixels[:, channel if pixels.shape[1] > 1 else 0]
            np.multiply(source, scale[channel], out=values[:, channel], dtype=np.float32)
        values += shift[:, None, None]
        return values

    def _affine(self) -> tuple[Float32, Float32]:
        """(scale, shift), each [C], so that scale * uint8 + shift is the normalised value."""
        mean, std = np.array(self.mean), np.array(self.std)
        return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)


def grey_of(image: Pixels) -> Pixels:
    """RGB uint8 [H, W, 3] -> grey uint8 [H, W], bit for bit Pillow's convert("L")."""
    red, green, blue = (image[:, :, i].astype(np.uint32) * weight for i, weight in enumerate(GREY_WEIGHTS))
    return ((red + green + blue + 0x8000) >> 16).astype(np.uint8)
