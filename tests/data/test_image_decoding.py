"""Files of every kind: read correctly as RGB, or refused as unreadable; never a crash, a warning or a wrong picture."""

from __future__ import annotations

import io
import logging
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gpusq.data import UnreadableImageError
from gpusq.data.decoding import quiet_pillow, read_rgb
from tests.data.picture_samples import photo

ORIENTATION = 0x0112


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")


def rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be shown turned by 90 degrees clockwise
    return exif


RGB = photo(0)
GREY = RGB[:, :, 0]
WIDE = np.random.default_rng(1).integers(0, 65536, (12, 10), dtype=np.uint16)
ALPHA = np.random.default_rng(2).integers(0, 256, (12, 10), dtype=np.uint8)
THREE = np.repeat(GREY[:, :, None], 3, axis=2)
PALETTE = Image.fromarray(RGB).quantize(16)
FRAMES = [Image.fromarray(photo(seed)).quantize(16) for seed in (5, 6, 7)]
CMYK = Image.fromarray(RGB).convert("CMYK")

READABLE: dict[str, tuple[bytes, np.ndarray]] = {
    "png": (encoded(Image.fromarray(RGB), "PNG"), RGB),
    "bmp": (encoded(Image.fromarray(RGB), "BMP"), RGB),
    "tiff": (encoded(Image.fromarray(RGB), "TIFF"), RGB),
    "lossless webp": (encoded(Image.fromarray(RGB), "WEBP", lossless=True), RGB),
    "grey png": (encoded(Image.fromarray(GREY), "PNG"), THREE),
    "one bit png": (encoded(Image.fromarray(GREY > 127), "PNG"), np.where(THREE > 127, 255, 0).astype(np.uint8)),
    "16-bit png": (encoded(Image.fromarray(WIDE), "PNG"), np.repeat((WIDE >> 8)[:, :, None], 3, axis=2)),
    "16-bit tiff": (encoded(Image.fromarray(WIDE), "TIFF"), np.repeat((WIDE >> 8)[:, :, None], 3, axis=2)),
    "alpha": (encoded(Image.fromarray(np.dstack([RGB, ALPHA])), "PNG"), RGB),
    "grey with alpha": (encoded(Image.fromarray(np.dstack([GREY, ALPHA]), "LA"), "PNG"), THREE),
    "palette": (encoded(PALETTE, "PNG"), np.array(PALETTE.convert("RGB"))),
    "palette with transparency": (
        encoded(PALETTE, "PNG", transparency=bytes(range(16))),
        np.array(PALETTE.convert("RGB")),
    ),
    "animated gif": (
        encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
        np.array(FRAMES[0].convert("RGB")),
    ),
    "animated png": (
        encoded(Image.fromarray(RGB), "PNG", save_all=True, append_images=[Image.fromarray(photo(5))]),
        RGB,
    ),
    "cmyk tiff": (encoded(CMYK, "TIFF"), np.array(CMYK.convert("RGB"))),
    "turned by exif": (encoded(Image.fromarray(RGB), "PNG", exif=rotated()), np.rot90(RGB, -1)),
}

JPEG = encoded(Image.fromarray(RGB), "JPEG")
UNREADABLE: dict[str, bytes] = {
    "empty": b"",
    "text": b"<html>not found</html>",
    "half a jpeg": JPEG[: len(JPEG) // 2],
    "half a png": READABLE["png"][0][: len(READABLE["png"][0]) // 2],
    "header alone": JPEG[:20],
    "bomb past the error limit": png_header(30_000, 30_000),
    "bomb past the warning limit": png_header(10_000, 10_000),
    "promises more than it holds": png_header(500, 500),
    "float tiff": encoded(Image.fromarray(GREY.astype(np.float32) / 255), "TIFF"),
    "negative integers": encoded(Image.fromarray(GREY.astype(np.int32) - 300), "TIFF"),
    "a program for another interpreter": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
}


@pytest.mark.parametrize("kind", READABLE)
def test_readable_files_give_the_right_picture(tmp_path: Path, kind: str) -> None:
    data, expected = READABLE[kind]
    path = tmp_path / "picture.jpg"  # whatever the extension says
    path.write_bytes(data)
    found = read_rgb(path)
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    assert (found == expected).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_are_read_within_the_loss_of_the_format(tmp_path: Path, mode: str) -> None:
    smooth = np.add.outer(np.arange(32) * 4, np.arange(40) * 3)[:, :, None] // np.array([1, 2, 3])
    image = Image.fromarray(smooth.astype(np.uint8)).convert(mode)
    path = tmp_path / "picture.jpg"
    image.save(path, quality=95)
    difference = np.abs(read_rgb(path).astype(int) - np.array(image.convert("RGB")).astype(int))
    assert difference.mean() < 3


@pytest.mark.parametrize("kind", UNREADABLE)
def test_unreadable_files_are_refused_with_their_path(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(UNREADABLE[kind])
    with warnings.catch_warnings(record=True) as leaked, pytest.raises(UnreadableImageError) as caught:
        read_rgb(path)
    assert str(path) in str(caught.value)
    assert leaked == []


@pytest.mark.parametrize(("limit", "passes"), [(120, True), (119, False), (59, False)])
def test_whole_pictures_past_pillows_limit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, passes: bool
) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(READABLE["png"][0])  # 120 pixels; Pillow itself only warns up to twice the limit
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    if passes:
        assert (read_rgb(path) == RGB).all()
    else:
        with pytest.raises(UnreadableImageError, match="DecompressionBomb"):
            read_rgb(path)


def test_warnings_of_pillow_do_not_leak(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(READABLE["palette with transparency"][0])
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        with Image.open(path) as image:
            image.convert("RGB")
        assert len(leaked) == 1  # what Pillow says when it is not kept quiet
        read_rgb(path)
    assert len(leaked) == 1


def test_pipes_folders_and_dead_links_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "absent.png")
    for name in ("pipe", "folder", "link", "absent"):
        with pytest.raises(UnreadableImageError, match="no regular file"):
            read_rgb(tmp_path / f"{name}.png")


@pytest.mark.parametrize("kind", ["png", "jpeg", "animated gif", "tiff", "lossless webp", "palette with transparency"])
def test_mutated_files_are_read_or_refused(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    data = JPEG if kind == "jpeg" else READABLE[kind][0]
    rng = np.random.default_rng(len(data))
    path = tmp_path / "picture"
    refused = 0
    for _ in range(120):
        mutated = np.frombuffer(data, np.uint8).copy()
        places = rng.integers(0, len(mutated), rng.integers(1, 9))
        mutated[places] = rng.integers(0, 256, len(places))
        path.write_bytes(mutated.tobytes()[: rng.integers(len(data) // 2, len(data) + 1)])
        try:
            found = read_rgb(path)
        except UnreadableImageError:
            refused += 1
        else:
            assert found.ndim == 3
            assert found.shape[2] == 3
            assert found.dtype == np.uint8
    assert refused
    assert capfd.readouterr().err == ""


def test_messages_of_pillow_do_not_reach_the_terminal() -> None:
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("PIL").handlers)


def test_the_warning_filters_are_as_before_after_many_threads() -> None:
    before = list(warnings.filters)

    def enter(_: int) -> None:
        with quiet_pillow(), quiet_pillow():
            pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, range(200)))
    assert list(warnings.filters) == before
