"""Resizing, grey and normalising, against Pillow and plain arithmetic."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from gpusq.data import Preprocess
from gpusq.data.preprocess import grey_of
from gpusq.errors import DataError
from tests.data.picture_samples import photo

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def plain(size: tuple[int, int], channels: int = 3, resize: Any = "bilinear") -> Preprocess:
    """Nothing but 0..1."""
    return Preprocess(size, channels, (0.0,) * channels, (1.0,) * channels, resize)


@given(arrays(np.uint8, (7, 5, 3)))
def test_grey_is_bit_for_bit_pillows(image: np.ndarray) -> None:
    assert (grey_of(image) == np.array(Image.fromarray(image).convert("L"))).all()


def test_every_grey_stays_the_same_grey() -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    assert (grey_of(ramp) == ramp[:, :, 0]).all()


@pytest.mark.parametrize("resize", ["bilinear", "bicubic", "nearest", "lanczos"])
@pytest.mark.parametrize("size", [(8, 8), (20, 15), (5, 30)])
def test_resizing_is_pillows(resize: str, size: tuple[int, int]) -> None:
    image = photo(3, 12, 17)
    expected = np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling[resize.upper()]))
    found = plain(size, resize=resize)(image)
    assert found.shape == (3, *size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1) / 255, atol=1e-6)


def test_values_are_normalised_for_each_channel() -> None:
    image = photo(4, 9, 9)
    expected = (image / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(Preprocess((9, 9), 3, MEAN, STD)(image), expected.transpose(2, 0, 1), atol=2e-6)


def test_colour_becomes_grey_for_one_channel() -> None:
    image = photo(5, 9, 9)
    found = Preprocess((9, 9), 1, (0.5,), (0.25,))(image)
    np.testing.assert_allclose(found[0], (grey_of(image) / 255 - 0.5) / 0.25, atol=2e-6)


@settings(max_examples=25)
@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 3]))
def test_grey_arrays_give_what_their_rgb_form_gives(height: int, width: int, channels: int) -> None:
    grey = photo(height * 13 + width)[:, :, 0]
    preprocess = Preprocess((height, width), channels, MEAN[:channels], STD[:channels])
    from_grey = preprocess.normalised(preprocess.resized(grey)[None])[0]
    assert (from_grey == preprocess(np.repeat(grey[:, :, None], 3, axis=2))).all()


def test_batched_equals_single() -> None:
    preprocess = Preprocess((8, 8), 3, MEAN, STD)
    images = [photo(seed) for seed in range(4)]
    batched = preprocess.normalised(np.stack([preprocess.resized(image) for image in images]))
    assert (batched == np.stack([preprocess(image) for image in images])).all()


def test_images_of_the_right_size_need_no_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert plain((12, 10))(photo(0)).shape == (3, 12, 10)
    assert plain((12, 10), 1)(photo(0)).shape == (1, 12, 10)


def test_the_input_is_left_as_it_was() -> None:
    image = photo(6)
    before = image.copy()
    plain((12, 10))(image)[...] = 0
    assert (image == before).all()


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8), np.zeros((2, 4, 4, 3), np.uint8)]
)
def test_other_arrays_are_refused(image: np.ndarray) -> None:
    with pytest.raises(DataError, match="an image must be uint8"):
        plain((4, 4))(image)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (0, 4)}, "size"),
        ({"channels": 2}, "1 or 3 channels"),
        ({"mean": (0.5,)}, "each channel"),
        ({"std": (1.0, 1.0)}, "each channel"),
        ({"std": (1.0, 0.0, 1.0)}, "positive"),
        ({"mean": (float("nan"), 0.0, 0.0)}, "finite"),
        ({"resize": "cubic"}, "resize to be one of"),
    ],
)
def test_descriptions_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Preprocess(**{"size": (4, 4), "channels": 3, "mean": MEAN, "std": STD, **change})
