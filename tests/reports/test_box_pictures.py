"""Pictures of boxes: self-contained, well-formed, escaped, and with the boxes where they belong."""

from __future__ import annotations

import base64
import io
import re
import sys
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from gpusq.data import Boxes, Detections, boxes_from_xyxy, no_boxes
from gpusq.errors import DataError, MissingExtraError
from gpusq.reports.box_panels import FOUND_COLOURS, TRUTH_COLOUR, rows_of_panels
from gpusq.reports.box_pictures import GAP, PANEL, TITLE, box_pictures, draw_png

SVG = "{http://www.w3.org/2000/svg}"


def found(corners: list[list[float]], scores: list[float], classes: list[int] | None = None) -> Detections:
    labels = np.array(classes or [0] * len(scores), np.int64)
    return Detections(np.array(scores, np.float32), labels, np.array(corners, np.float32).reshape(-1, 4))


def truth(corners: list[list[float]], size: tuple[int, int], crowd: list[bool] | None = None) -> Boxes:
    crowds = np.array(crowd or [False] * len(corners))
    return boxes_from_xyxy(np.array(corners, float).reshape(-1, 4), np.zeros(len(corners), np.int64), size, crowds)


GREY = np.full((40, 80, 3), 128, np.uint8)
SMALL = np.full((30, 30, 3), 90, np.uint8)
IMAGES = [GREY, SMALL]
NAMED = {
    "dense": [found([[20, 10, 60, 30], [0, 0, 9, 9]], [0.9, 0.2]), found([], [])],
    "2:4 INT8": [found([[22, 12, 60, 30]], [0.51]), found([[-5, -5, 99, 10]], [1.0])],
}
TARGETS = [truth([[20, 10, 60, 30], [70, 0, 80, 40]], (40, 80), [False, True]), no_boxes((30, 30))]


def parsed(picture: str) -> ElementTree.Element:
    """The picture must be well-formed XML, which is stricter than HTML."""
    return ElementTree.fromstring(picture)  # noqa: S314 - of our own making


def svgs(**more: Any) -> list[ElementTree.Element]:
    pictures = box_pictures(IMAGES, NAMED, TARGETS, 0.5, ("Tree",), **more)
    return [parsed(picture) for picture in pictures]


def test_there_is_a_picture_for_each_image_with_a_panel_for_each_source() -> None:
    first, second = svgs()
    assert [len(picture.findall(f"{SVG}g")) for picture in (first, second)] == [3, 3]
    titles = [text.text for text in first.findall(f"{SVG}text")]
    assert titles == [
        "dense: 1 with a score of 50 % or more",
        "2:4 INT8: 1 with a score of 50 % or more",
        "ground truth: 1, 1 ignored",
    ]
    assert first.get("viewBox") == f"0 0 {3 * PANEL + 2 * GAP} {PANEL // 2 + TITLE}"
    assert second.get("viewBox") == f"0 0 {3 * PANEL + 2 * GAP} {PANEL + TITLE}"


def test_boxes_are_drawn_where_they_belong() -> None:
    dense, _, known = svgs()[0].findall(f"{SVG}g")
    rectangle = dense.findall(f"{SVG}rect")[-1]
    place = [float(rectangle.get(key, "nan")) for key in ("x", "y", "width", "height")]
    assert place == [PANEL / 4, PANEL / 8, PANEL / 2, PANEL / 4]
    assert rectangle.get("stroke") == FOUND_COLOURS[0]
    assert [text.text for text in dense.findall(f"{SVG}text")] == ["90"]
    assert known.findall(f"{SVG}rect")[1].get("stroke") == TRUTH_COLOUR
    assert [bool(r.get("stroke-dasharray")) for r in known.findall(f"{SVG}rect")] == [False, False, True, True]


def test_boxes_over_the_edge_end_at_the_edge() -> None:
    mark = rows_of_panels(IMAGES, NAMED, TARGETS, 0.5)[1][1].marks[0]
    assert (mark.x0, mark.y0, mark.x1) == (0, 0, 1)
    assert mark.y1 == pytest.approx(1 / 3)


def test_the_threshold_decides_what_is_shown() -> None:
    counts = [len(rows_of_panels(IMAGES, NAMED, TARGETS, t)[0][0].marks) for t in (0.0, 0.2, 0.21, 0.95)]
    assert counts == [2, 2, 1, 0]


def test_the_picture_is_described_in_words() -> None:
    for picture, name in zip(svgs(captions=("tile 1", "tile 2")), ("tile 1", "tile 2"), strict=True):
        label = picture.get("aria-label")
        assert picture.get("role") == "img"
        assert label is not None
        assert label == picture.findtext(f"{SVG}title")
        assert label.startswith(f"{name}: the same image 3 times with boxes around objects. dense: ")
        assert "ground truth" in label


def test_nothing_is_loaded_and_nothing_runs() -> None:
    for picture in box_pictures(IMAGES, NAMED, TARGETS, 0.5):
        links = re.findall(r'href="([^"]*)"', picture)
        assert all(link.startswith(("data:image/jpeg;base64,", "#photo-")) for link in links)
        assert "script" not in picture
        assert "style" not in picture


def test_the_image_is_embedded_once_under_a_name_of_its_own() -> None:
    pictures = box_pictures(IMAGES, NAMED, TARGETS, 0.5)
    names = [re.findall(r'<image id="([^"]+)"', picture) for picture in pictures]
    assert [len(found) for found in names] == [1, 1]
    assert names[0] != names[1]
    for picture, [name], image in zip(pictures, names, IMAGES, strict=True):
        assert picture.count(f'href="#{name}"') == 3
        [data] = re.findall(r'base64,([^"]+)"', picture)
        with Image.open(io.BytesIO(base64.b64decode(data))) as embedded:
            assert embedded.format == "JPEG"
            assert embedded.size == image.shape[1::-1]
            assert np.abs(np.asarray(embedded).astype(int) - image).max() < 5


def test_large_images_are_made_smaller() -> None:
    large = np.zeros((3000, 1000, 3), np.uint8)
    [picture] = box_pictures([large], {"dense": [found([], [])]}, [no_boxes((3000, 1000))], 0.5)
    assert len(picture) < 50_000


def test_strange_names_are_escaped() -> None:
    name = '</text><script>alert("x")</script>&'
    [picture] = box_pictures(
        [GREY], {name: [found([[0, 0, 9, 9]], [0.9], [1])]}, [no_boxes((40, 80))], 0.5, ("a", name), (name,)
    )
    root = parsed(picture)
    assert root.find(f".//{SVG}script") is None
    assert (root.findtext(f"{SVG}text") or "").startswith(name)
    assert root.findtext(f"{SVG}g/{SVG}text") == f"{name} 90"


def test_classes_are_named_where_there_are_several() -> None:
    both = {"dense": [found([[0, 0, 9, 9], [9, 9, 20, 20]], [0.9, 0.8], [0, 1])]}
    rows = rows_of_panels([GREY], both, [no_boxes((40, 80))], 0.5, ("cat", "dog"))
    assert [mark.label for mark in rows[0][0].marks] == ["cat 90", "dog 80"]
    assert [mark.label for mark in rows_of_panels([GREY], both, [no_boxes((40, 80))], 0.5)[0][0].marks] == [
        "0 90",
        "1 80",
    ]


def test_equal_input_gives_equal_pictures() -> None:
    assert box_pictures(IMAGES, NAMED, TARGETS, 0.5) == box_pictures(IMAGES, NAMED, TARGETS, 0.5)
    assert draw_png(IMAGES, NAMED, TARGETS, 0.5) == draw_png(IMAGES, NAMED, TARGETS, 0.5)


def test_the_png_shows_the_same_boxes() -> None:
    with Image.open(io.BytesIO(draw_png(IMAGES, NAMED, TARGETS, 0.5, ("Tree",)))) as image:
        sheet = np.asarray(image.convert("RGB"))
    assert sheet.shape == (PANEL // 2 + PANEL + 2 * (TITLE + GAP), 3 * PANEL + 2 * GAP, 3)

    def pixel(colour: str) -> list[int]:
        return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]

    middle = TITLE + PANEL // 4
    assert sheet[middle, round(0.25 * (PANEL - 1))].tolist() == pixel(FOUND_COLOURS[0])
    left = 2 * (PANEL + GAP)
    assert sheet[middle, left + round(0.25 * (PANEL - 1))].tolist() == pixel(TRUTH_COLOUR)
    assert sheet[middle, left + PANEL // 2].tolist() == [128, 128, 128]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": TARGETS[:1]}, "got 1 and 2"),
        ({"named_detections": {"dense": NAMED["dense"][:1]}}, "got 1 and 2"),
        ({"threshold": 1.5}, "score from 0 to 1; got 1.5"),
        ({"threshold": float("nan")}, "score from 0 to 1"),
        ({"images": [GREY, SMALL[:, :, 0]]}, r"uint8 \[H, W, 3\]"),
        ({"images": [GREY, SMALL.astype(np.float32)]}, "got float32"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    arguments = {"images": IMAGES, "named_detections": NAMED, "targets": TARGETS, "threshold": 0.5, **change}
    for draw in (box_pictures, draw_png):
        with pytest.raises(DataError, match=message):
            draw(**arguments)


def test_without_pillow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError, match=r"\.\[host\]"):
        box_pictures(IMAGES, NAMED, TARGETS, 0.5)
