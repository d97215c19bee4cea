"""Boxes: conversions that undo each other, and what of a box is left in a part of its image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpusq.data import Boxes, boxes_from_xyxy, no_boxes
from gpusq.data.boxes import areas, box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, clipped, seen_through
from gpusq.errors import DataError
from tests.data.box_samples import boxes

SIDE = st.integers(0, 99)


@st.composite
def corners(draw: st.DrawFn, most: int = 6) -> np.ndarray:
    """float64 [n, 4] in an image of 100 x 100."""
    rows = draw(st.lists(st.tuples(SIDE, SIDE, st.integers(1, 60), st.integers(1, 60)), max_size=most))
    return np.array([(x, y, min(100, x + w), min(100, y + h)) for x, y, w, h in rows], np.float64).reshape(-1, 4)


@st.composite
def anywhere(draw: st.DrawFn) -> np.ndarray:
    """float64 [n, 4] in and around an image of 100 x 100, some without extent."""
    place, side = st.integers(-30, 130), st.integers(0, 60)
    rows = draw(st.lists(st.tuples(place, place, side, side), max_size=6))
    return np.array([(x, y, x + w, y + h) for x, y, w, h in rows], np.float64).reshape(-1, 4)


@given(corners())
def test_the_conversions_undo_each_other(xyxy: np.ndarray) -> None:
    assert np.allclose(box_cxcywh_to_xyxy(box_xyxy_to_cxcywh(xyxy)), xyxy)
    assert np.allclose(boxes_from_xyxy(xyxy, np.zeros(len(xyxy), int), (100, 100)).xyxy(), xyxy, atol=1e-4)


@given(corners())
def test_shares_are_of_the_original_image(xyxy: np.ndarray) -> None:
    found = boxes_from_xyxy(xyxy, np.zeros(len(xyxy), int), (200, 400))
    assert np.allclose(found.boxes * [400, 200, 400, 200], box_xyxy_to_cxcywh(xyxy), atol=1e-4)
    assert np.allclose(found.area, areas(xyxy))
    assert found.size == (200, 400)


@given(corners())
def test_the_whole_image_is_seen_whole(xyxy: np.ndarray) -> None:
    before = boxes(xyxy.tolist())
    after = seen_through(before, (0, 0, 100, 100), visible=1.0)
    assert np.allclose(after.boxes, before.boxes, atol=1e-6)
    assert after.crowd.tolist() == before.crowd.tolist()


@given(corners(), st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(51, 100), st.integers(51, 100)))
def test_what_is_seen_lies_inside_and_is_no_larger(xyxy: np.ndarray, window: tuple[int, int, int, int]) -> None:
    seen = seen_through(boxes(xyxy.tolist()), window, visible=0.5)
    inside = seen.xyxy()
    height, width = seen.size
    assert (height, width) == (window[3] - window[1], window[2] - window[0])
    assert (inside >= -1e-4).all()
    assert (inside <= np.array([width, height, width, height]) + 1e-4).all()
    share = areas(clipped(xyxy, window)) / areas(xyxy)
    assert len(seen) == int((share >= 0.5).sum())
    assert np.allclose(seen.area, areas(clipped(xyxy, window))[share >= 0.5], atol=1e-2)


@given(corners())
def test_four_quarters_share_out_the_area(xyxy: np.ndarray) -> None:
    whole = boxes(xyxy.tolist())
    windows = [(x, y, x + 50, y + 50) for x in (0, 50) for y in (0, 50)]
    parts = [seen_through(whole, window, visible=0.5, cut_is_crowd=True) for window in windows]
    assert sum(float(part.area.sum()) for part in parts) == pytest.approx(float(whole.area.sum()), rel=1e-4)


def test_a_cut_object_is_left_out_or_a_crowd() -> None:
    cut = boxes([[40, 40, 60, 60], [0, 0, 10, 10]])
    assert len(seen_through(cut, (0, 0, 45, 100), visible=0.5)) == 1
    kept = seen_through(cut, (0, 0, 45, 100), visible=0.5, cut_is_crowd=True)
    assert kept.crowd.tolist() == [True, False]
    assert len(seen_through(cut, (0, 0, 50, 100), visible=0.5)) == 2  # exactly half counts


def test_crowds_stay_as_long_as_they_reach_in() -> None:
    crowd = boxes([[40, 40, 60, 60]], crowd=np.array([True]))
    assert seen_through(crowd, (0, 0, 41, 100), visible=0.9).crowd.tolist() == [True]
    assert len(seen_through(crowd, (0, 0, 40, 100), visible=0.9)) == 0


def test_what_is_trained_on_has_no_crowds() -> None:
    mixed = boxes([[0, 0, 5, 5], [5, 5, 9, 9]], crowd=np.array([True, False]))
    assert mixed.learnable().xyxy().round(3).tolist() == [[5, 5, 9, 9]]
    assert len(no_boxes((3, 4)).learnable()) == 0


@given(anywhere())
def test_what_is_trained_on_is_what_the_image_shows_of_each_box(xyxy: np.ndarray) -> None:
    every = boxes(xyxy.tolist(), (60, 100))
    learned = every.learnable()
    inside = clipped(xyxy, (0, 0, 100, 60))
    seen = (inside[:, 2:] > inside[:, :2]).all(axis=1)
    assert np.allclose(learned.xyxy(), inside[seen], atol=1e-3)
    assert (areas(learned.xyxy()) > 0).all()
    untouched = (inside == xyxy).all(axis=1) & seen
    assert np.array_equal(learned.boxes[untouched[seen]], every.boxes[untouched])  # to the bit
    assert len(every) == len(xyxy)  # the metric keeps them all
    assert np.array_equal(learned.learnable().boxes, learned.boxes)


@given(anywhere())
def test_a_crop_takes_of_a_box_what_the_image_shows_of_it(xyxy: np.ndarray) -> None:
    every = boxes(xyxy.tolist())
    for window in ((0, 0, 100, 100), (20, 30, 90, 80)):
        crop, of_learned = (seen_through(x, window, visible=0.5) for x in (every, every.learnable()))
        assert np.allclose(crop.boxes, of_learned.boxes, atol=1e-5)


def test_a_copy_is_independent() -> None:
    first = boxes([[0, 0, 5, 5]])
    second = first.copy()
    second.boxes[:] = 0
    assert first.boxes.max() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": np.zeros((1, 3), np.float32)}, r"float32 \[1, 3\]"),
        ({"boxes": np.zeros((1, 4))}, r"float64 \[1, 4\]"),
        ({"crowd": np.zeros(2, np.bool_)}, r"bool \[2\]"),
        ({"classes": np.zeros(1, np.int32)}, r"int32 \[1\]"),
        ({"boxes": np.full((1, 4), np.nan, np.float32)}, "finite"),
        ({"size": (0, 5)}, "at least one pixel"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    good = boxes([[0, 0, 5, 5]])
    fields = {"boxes": good.boxes, "classes": good.classes, "crowd": good.crowd, "area": good.area, "size": good.size}
    with pytest.raises(DataError, match=message):
        Boxes(**{**fields, **change})  # type: ignore[arg-type]
