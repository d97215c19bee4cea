"""Tiles: every pixel once or overlapping as asked, every object accounted for, read back as a COCO folder."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpusq.data import BoxSet, open_data
from gpusq.data.tiles import AnnotatedImage, coco_of, grid, overlapping, tiles_of, write_coco
from gpusq.errors import DataError
from tests.data.box_samples import boxes
from tests.data.picture_samples import photo

IMAGE = AnnotatedImage("field", photo(0, 70, 90), boxes([[5, 5, 15, 15], [25, 2, 35, 12], [40, 40, 46, 44]], (70, 90)))


@given(st.integers(1, 3000), st.integers(2, 400))
def test_a_grid_covers_everything_once_in_near_equal_parts(length: int, tile: int) -> None:
    parts = grid(length, tile)
    assert parts[0][0] == 0
    assert parts[-1][1] == length
    assert all(a[1] == b[0] for a, b in pairwise(parts))
    sides = [end - begin for begin, end in parts]
    assert max(sides) - min(sides) <= 1
    assert len(parts) == 1 or tile / 1.5 - 1 <= min(sides) <= max(sides) <= tile * 1.5 + 1


@given(st.integers(1, 3000), st.integers(2, 400), st.floats(0, 0.9))
def test_overlapping_parts_cover_everything(length: int, tile: int, overlap: float) -> None:
    parts = overlapping(length, tile, overlap)
    assert parts[0][0] == 0
    assert parts[-1][1] == length
    assert all(end - begin == min(tile, length) for begin, end in parts)
    shared = [a[1] - b[0] for a, b in pairwise(parts)]
    assert all(share >= int(tile * overlap) - 1 for share in shared)


def test_tiles_are_named_after_their_place_and_hold_its_pixels() -> None:
    tiles = {tile.name: tile for tile in tiles_of(IMAGE, 30)}
    assert len(tiles) == 2 * 3
    assert np.array_equal(tiles["field-y0035-x0030"].pixels, IMAGE.pixels[35:70, 30:60])
    assert tiles["field-y0035-x0030"].boxes.size == (35, 30)


def test_a_cut_object_is_one_object_and_crowds() -> None:
    tiles = {tile.name: tile.boxes for tile in tiles_of(IMAGE, 30)}
    left, right = tiles["field-y0000-x0000"], tiles["field-y0000-x0030"]
    assert left.crowd.tolist() == [False, False]  # the second is cut in half: it counts on both sides
    assert right.crowd.tolist() == [False]
    shifted = AnnotatedImage("field", IMAGE.pixels, boxes([[24, 2, 34, 12]], (70, 90)))
    tiles = {tile.name: tile.boxes for tile in tiles_of(shifted, 30)}
    assert tiles["field-y0000-x0000"].xyxy().round(3).tolist() == [[24, 2, 30, 12]]
    assert tiles["field-y0000-x0030"].crowd.tolist() == [True]
    assert tiles["field-y0000-x0030"].xyxy().round(3).tolist() == [[0, 2, 4, 12]]


def test_written_tiles_are_read_back_as_they_were(tmp_path: Path) -> None:
    for split, overlap in (("train", 0.5), ("test", None)):
        made = list(tiles_of(IMAGE, 30, overlap))
        write_coco(tmp_path / split, made, ("Tree",), {"source": "test"})
    data = open_data(f"coco:{tmp_path}")
    assert isinstance(data.test, BoxSet)
    assert data.test.classes == ("Tree",)
    assert data.test.findings.zero_area == data.test.findings.clipped == data.test.findings.outside == 0
    for tile in tiles_of(IMAGE, 30):
        index = data.test.ids.index(f"test/{tile.name}.ppm")
        assert np.array_equal(data.test.image(index), tile.pixels)
        read = data.test.boxes(index)
        assert np.allclose(read.boxes, tile.boxes.boxes, atol=1e-4)
        assert np.array_equal(read.crowd, tile.boxes.crowd)
        assert np.allclose(read.area, tile.boxes.area, atol=0.01)


def test_empty_tiles_are_listed() -> None:
    content = coco_of(list(tiles_of(IMAGE, 30)), ("Tree",), {})
    with_objects = {entry["image_id"] for entry in content["annotations"]}
    assert len(content["images"]) == 6
    assert 0 < len(with_objects) < 6
    assert [entry["id"] for entry in content["annotations"]] == list(range(1, len(content["annotations"]) + 1))


@pytest.mark.parametrize(("tile", "overlap"), [(1, None), (30, 1.0), (30, -0.1)])
def test_impossible_tiles_are_refused(tile: int, overlap: float | None) -> None:
    with pytest.raises(DataError, match="a tile needs"):
        list(tiles_of(IMAGE, tile, overlap))


def test_pixels_of_another_size_are_refused() -> None:
    with pytest.raises(DataError, match="field: pixels and boxes must be of one size"):
        list(tiles_of(AnnotatedImage("field", photo(0, 9, 9), IMAGE.boxes), 30))
