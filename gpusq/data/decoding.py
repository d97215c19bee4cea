"""One image file to RGB. Whatever the file holds, it is either read correctly or refused as unreadable."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpusq.data.imageset import Pixels, UnreadableImageError
from gpusq.errors import MissingExtraError

if TYPE_CHECKING:
    from PIL import Image

# Formats that Pillow decodes by itself; others (EPS) would start programs on what a stranger's file says.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = frozenset(
    (
        *(".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
        *(".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    )
)
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width
WIDE_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")

logging.getLogger("PIL").addHandler(logging.NullHandler())  # otherwise its messages go to the terminal of any program


def read_rgb(path: Path) -> Pixels:
    """The first frame of an image file, upright as its EXIF tag says, as RGB uint8 [H, W, 3].

    Transparency is dropped; 16-bit grey keeps its high byte. Raises UnreadableImageError for anything that is no
    whole picture or has more pixels than Pillow's limit (89 million); MissingExtraError without Pillow.
    Damaged compressed TIFFs may still make the C library libtiff write a line to standard error.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingExtraError("pillow", "host", "reading image files") from error
    if not path.is_file():  # also keeps away from pipes, which would wait for ever
        raise UnreadableImageError(f"{path} cannot be read", got="no regular file")
    formats = _formats()
    try:
        with quiet_pillow(), path.open("rb") as file, Image.open(file, formats=formats) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return _rgb(image)
    except Exception as error:  # damaged files raise nearly anything inside a decoder
        raise UnreadableImageError(f"{path} cannot be read", got=f"{type(error).__name__}: {error}") from error


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) of the picture that read_rgb gives, from the head of the file alone.

    Raises UnreadableImageError for anything that has no such head; MissingExtraError without Pillow.
    """
    try:
        from PIL import ExifTags, Image
    except ImportError as error:
        raise MissingExtraError("pillow", "host", "reading image files") from error
    if not path.is_file():
        raise UnreadableImageError(f"{path} cannot be read", got="no regular file")
    formats = _formats()
    try:
        with quiet_pillow(), path.open("rb") as file, Image.open(file, formats=formats) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS
            return (width, height) if turned else (height, width)
    except Exception as error:  # as above
        raise UnreadableImageError(f"{path} cannot be read", got=f"{type(error).__name__}: {error}") from error


def _formats() -> list[str]:
    """The accepted formats that this Pillow was built with."""
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _rgb(image: Image.Image) -> Pixels:
    """[H, W, 3] from a Pillow image of any mode. Raises ValueError where its values have no agreed range."""
    if image.mode == "F":
        raise ValueError("floating-point images have no agreed white")
    if image.mode in WIDE_MODES:
        return np.repeat(_high_byte(np.asarray(image))[:, :, None], 3, axis=2)
    if image.mode == "RGBa":  # has no direct way to RGB
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _high_byte(grey: np.ndarray) -> Pixels:
    """uint8 [H, W] from 16-bit grey [H, W] in any integer type."""
    if grey.min() < 0 or grey.max() > 0xFFFF:
        raise ValueError(f"grey values must be 0 to 65535, got {grey.min()} to {grey.max()}")
    return (grey >> 8).astype(np.uint8)


class _QuietPillow:
    """Pillow's warnings off while at least one thread decodes; its decompression-bomb warning becomes an error.

    warnings.catch_warnings changes the whole process, so only the first thread in and the last one out touch it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved = contextlib.ExitStack()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._enter()
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._saved.close()

    def _enter(self) -> None:
        from PIL import Image

        self._saved.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", module=r"PIL\b")
        warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


quiet_pillow = _QuietPillow()
