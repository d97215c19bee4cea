"""Flips and crops: boxes stay on their objects, and the same seed, step and image give the same picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gpusq.data import BoxAugmentation, Boxes, no_boxes
from gpusq.data.box_augmentation import DRAWS, cropped, draws_of, flipped
from gpusq.errors import DataError
from tests.data.box_samples import boxes
from tests.data.test_boxes import corners

SIDE = 40


def painted(corner: tuple[int, int, int, int]) -> tuple[Tensor, Boxes]:
    """A black image [1, SIDE, SIDE] with one white rectangle, and its box on an original five times as large."""
    x0, y0, x1, y1 = corner
    image = torch.zeros(1, SIDE, SIDE)
    image[:, y0:y1, x0:x1] = 1
    return image, boxes([[5 * x0, 5 * y0, 5 * x1, 5 * y1]], size=(5 * SIDE, 5 * SIDE))


def white_box(image: Tensor) -> list[float]:
    """(x0, y0, x1, y1) of the white pixels of [1, H, W], as shares."""
    rows, columns = torch.where(image[0] > 0.5)
    height, width = image.shape[-2:]
    return [
        int(columns.min()) / width,
        int(rows.min()) / height,
        (int(columns.max()) + 1) / width,
        (int(rows.max()) + 1) / height,
    ]


def shares(found: Boxes) -> list[float]:
    """(x0, y0, x1, y1) of the only box, as shares."""
    [(cx, cy, w, h)] = found.boxes.tolist()
    return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]


@st.composite
def rectangles(draw: st.DrawFn) -> tuple[int, int, int, int]:
    x0, y0 = draw(st.integers(0, SIDE - 8)), draw(st.integers(0, SIDE - 8))
    return x0, y0, draw(st.integers(x0 + 6, SIDE)), draw(st.integers(y0 + 6, SIDE))


@given(corners(), st.booleans())
def test_flipping_twice_changes_nothing(xyxy: np.ndarray, vertical: bool) -> None:
    image, before = torch.rand(3, 8, 6), boxes(xyxy.tolist())
    turned, moved = flipped(image, before, vertical)
    back, after = flipped(turned, moved, vertical)
    assert torch.equal(back, image)
    assert np.allclose(after.boxes, before.boxes, atol=1e-6)
    assert np.array_equal(after.classes, before.classes)
    assert np.array_equal(after.area, moved.area)


@given(rectangles(), st.booleans())
def test_a_flipped_box_stays_on_its_object(corner: tuple[int, int, int, int], vertical: bool) -> None:
    image, found = flipped(*painted(corner), vertical)
    assert shares(found) == pytest.approx(white_box(image), abs=1e-5)


@given(rectangles(), rectangles())
def test_a_cropped_box_stays_on_its_object(
    corner: tuple[int, int, int, int], window: tuple[int, int, int, int]
) -> None:
    image, found = cropped(*painted(corner), window, visible=0.5)
    assert image.shape == (1, SIDE, SIDE)
    x0, y0, x1, y1 = corner
    seen = max(0, min(x1, window[2]) - max(x0, window[0])) * max(0, min(y1, window[3]) - max(y0, window[1]))
    assert len(found) == (seen >= 0.5 * (x1 - x0) * (y1 - y0))
    if len(found):
        assert shares(found) == pytest.approx(white_box(image), abs=1.5 / SIDE)  # edges are blurred by the scaling
        assert found.size == (5 * (window[3] - window[1]), 5 * (window[2] - window[0]))
        assert found.area.tolist() == pytest.approx([25 * seen], rel=1e-3)


def test_the_whole_image_as_a_crop_changes_nothing() -> None:
    image, before = painted((3, 4, 20, 30))
    same, after = cropped(image, before, (0, 0, SIDE, SIDE))
    assert torch.equal(same, image)
    assert np.allclose(after.boxes, before.boxes, atol=1e-6)


@pytest.mark.parametrize("window", [(0, 0, SIDE + 1, 5), (-1, 0, 5, 5), (5, 5, 5, 9), (0, 9, 5, 5)])
def test_crops_outside_are_refused(window: tuple[int, int, int, int]) -> None:
    with pytest.raises(DataError, match="a crop must lie in"):
        cropped(*painted((3, 4, 20, 30)), window)


# ---- the whole augmentation ----

BATCH = [painted((3 + i, 4, 20 + i, 30)) for i in range(6)]
IMAGES, TARGETS = torch.stack([image for image, _ in BATCH]), tuple(found for _, found in BATCH)
IDS = tuple(f"image-{i}" for i in range(6))


@settings(deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 10**6), st.booleans(), st.floats(0.3, 1.0))
def test_boxes_stay_on_their_objects_whatever_is_drawn(seed: int, step: int, vertical: bool, least: float) -> None:
    change = BoxAugmentation(vertical=vertical, least_side=least, visible=0.9)
    images, targets = change(IMAGES, TARGETS, IDS, seed, step)
    assert images.shape == IMAGES.shape
    for image, found in zip(images, targets, strict=True):
        if len(found):
            assert shares(found) == pytest.approx(white_box(image), abs=2 / SIDE)


def test_an_image_changes_alike_in_any_batch() -> None:
    change = BoxAugmentation(vertical=True)
    images, targets = change(IMAGES, TARGETS, IDS, seed=3, step=17)
    for i in range(6):
        alone, found = change(IMAGES[i : i + 1], TARGETS[i : i + 1], IDS[i : i + 1], seed=3, step=17)
        assert torch.equal(alone[0], images[i])
        assert np.array_equal(found[0].boxes, targets[i].boxes)


def test_seed_step_and_image_each_make_a_difference() -> None:
    drawn = {draws_of(seed, step, own) for seed in range(3) for step in range(3) for own in "abc"}
    assert len(drawn) == 27
    assert draws_of(0, 0, "a") == draws_of(0, 0, "a")


def test_draws_are_spread_evenly() -> None:
    numbers = np.array([draws_of(0, step, "a") for step in range(2000)])
    assert numbers.shape == (2000, DRAWS)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert np.allclose(numbers.mean(axis=0), 0.5, atol=0.03)


def test_draws_are_the_same_on_every_machine() -> None:  # as `printf 0:0:a | sha256sum` begins
    assert draws_of(0, 0, "a")[:2] == pytest.approx((0x5AFC6A95 / 2**32, 0xB792CABA / 2**32))


def test_both_sides_of_each_choice_occur() -> None:
    plain = BoxAugmentation(vertical=True, least_side=1)
    kinds = {tuple(np.round(shares(plain(IMAGES[:1], TARGETS[:1], IDS[:1], 0, s)[1][0]), 4)) for s in range(50)}
    assert len(kinds) == 4
    assert BoxAugmentation(horizontal=False, least_side=1)(IMAGES, TARGETS, IDS, 0, 0)[0].equal(IMAGES)


def test_the_arguments_stay_as_they_are() -> None:
    images, before = IMAGES.clone(), [found.boxes.copy() for found in TARGETS]
    BoxAugmentation(vertical=True)(IMAGES, TARGETS, IDS, 0, 1)
    assert torch.equal(IMAGES, images)
    assert all(np.array_equal(found.boxes, old) for found, old in zip(TARGETS, before, strict=True))


def test_empty_images_and_empty_batches_pass() -> None:
    images, targets = BoxAugmentation()(IMAGES[:1], (no_boxes((200, 200)),), IDS[:1], 0, 0)
    assert (len(images), len(targets[0])) == (1, 0)
    assert BoxAugmentation()(IMAGES[:0], (), (), 0, 0)[0].shape == (0, 1, SIDE, SIDE)


def test_lists_of_other_lengths_and_impossible_shares_are_refused() -> None:
    with pytest.raises(DataError, match="got 6, 5 and 6"):
        BoxAugmentation()(IMAGES, TARGETS[:5], IDS, 0, 0)
    for bad in ({"least_side": 0.0}, {"least_side": 1.1}, {"visible": 0.0}):
        with pytest.raises(DataError, match="shares must be above 0"):
            BoxAugmentation(**bad)
