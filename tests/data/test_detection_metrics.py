"""COCO AP: cases computed by hand, the COCO project's own tool, and what has no answer."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpusq.data import AP, BoxSet, average_precision, boxes_from_xyxy, no_boxes, open_data
from gpusq.data.boxes import Boxes
from gpusq.data.detections import Detections
from gpusq.errors import ClassMismatchError, DataError, MissingExtraError, NonFiniteError
from tests.data.box_samples import boxes, coco, detections, write_images, write_json

A, B, FAR = [10, 10, 50, 50], [60, 60, 90, 90], [0, 80, 9, 99]
NOTHING = detections([], [])


def points(found: AP) -> tuple[float, float]:
    assert found.ap is not None
    assert found.ap50 is not None
    return found.ap, found.ap50


# ---- by hand; COCO averages the precision at the 101 recalls 0, 0.01 .. 1 ----


def test_all_found_is_100_and_none_found_is_0() -> None:
    every = average_precision([detections([A, B], [0.9, 0.8])], [boxes([A, B])], ["x"])
    assert every == AP(100, 100, 100, 100, n_images=1, n_boxes=2)
    assert average_precision([NOTHING], [boxes([A, B])], ["x"]) == AP(0, 0, 0, 0, n_images=1, n_boxes=2)


def test_a_false_one_in_between_costs_the_second_half() -> None:
    found = average_precision([detections([A, FAR, B], [0.9, 0.8, 0.7])], [boxes([A, B])], ["x"])
    assert points(found) == pytest.approx((100 * (51 + 50 * 2 / 3) / 101,) * 2)  # precision 1 to recall 0.5, then 2/3


def test_the_iou_decides_at_which_thresholds_a_box_counts() -> None:
    found = average_precision([detections([[10, 10, 50, 38.9]], [0.9])], [boxes([A])], ["x"])  # IoU 0.7225
    assert (found.ap, found.ap50, found.ap75) == (50, 100, 0)  # 0.50, 0.55, 0.60, 0.65, 0.70
    assert found.ar100 == 50


def test_a_second_box_on_the_same_object_is_false() -> None:
    found = average_precision([detections([A, A, B], [0.9, 0.8, 0.7])], [boxes([A, B])], ["x"])
    assert found.ap50 == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)


def test_a_false_one_on_an_empty_image_counts() -> None:
    found = average_precision(
        [detections([A], [0.9]), detections([A], [0.8])], [no_boxes((100, 100)), boxes([A])], ["x"]
    )
    assert (found.ap50, found.n_images, found.n_boxes) == (50, 2, 1)


def test_an_empty_image_without_detections_changes_nothing() -> None:
    one = average_precision([detections([A, FAR], [0.9, 0.8])], [boxes([A])], ["x"])
    two = average_precision([detections([A, FAR], [0.9, 0.8]), NOTHING], [boxes([A]), no_boxes((5, 7))], ["x"])
    assert points(one) == points(two)
    assert two.n_images == 2


def test_a_crowd_takes_any_number_and_is_never_missed() -> None:
    truth = boxes([A, [55, 0, 100, 100]], crowd=np.array([False, True]))
    inside = [[56, 1, 70, 20], [56, 30, 70, 50], B]
    many = average_precision([detections([*inside, A], [0.9, 0.8, 0.7, 0.6])], [truth], ["x"])
    none = average_precision([detections([A], [0.6])], [truth], ["x"])
    assert points(many) == points(none) == (100, 100)
    assert many.n_boxes == 1


def test_classes_are_judged_apart_and_absent_ones_left_out() -> None:
    truth = boxes([A, B], classes=[0, 2])
    right = average_precision([detections([A, B, FAR], [0.9, 0.8, 0.95], [0, 2, 1])], [truth], ["x", "y", "z"])
    assert points(right) == (100, 100)  # class y occurs nowhere: its false box counts in no mean
    wrong = average_precision([detections([A, B], [0.9, 0.8], [0, 0])], [truth], ["x", "y", "z"])
    assert points(wrong) == (50, 50)


def test_the_hundred_best_of_an_image_are_judged() -> None:
    false = [[i * 0.5, 90, i * 0.5 + 3, 99] for i in range(100)]
    scores = np.linspace(0.9, 0.5, 100).tolist()
    late = average_precision([detections([*false, A], [*scores, 0.1])], [boxes([A])], ["x"])
    assert points(late) == (0, 0)
    early = average_precision([detections([*false[:99], A], [*scores[:99], 0.1])], [boxes([A])], ["x"])
    assert early.ap50 == pytest.approx(1.0)  # found as the last of a hundred


def test_an_object_without_extent_counts_and_is_never_found() -> None:
    truth = boxes([A, [60, 60, 60, 90]])
    found = average_precision([detections([A, [60, 60, 60, 90]], [0.9, 0.8])], [truth], ["x"])
    assert found.ap50 == pytest.approx(100 * 51 / 101)  # precision 1 up to recall 0.5, then nothing
    assert found.n_boxes == 2


# ---- what is not defined ----


@pytest.mark.parametrize(
    "truth", [no_boxes((100, 100)), boxes([A], crowd=np.array([True]))], ids=["no objects", "crowds alone"]
)
def test_without_objects_there_is_no_precision(truth: Boxes) -> None:
    found = average_precision([detections([A], [0.9])], [truth], ["x"])
    assert found == AP(None, None, None, None, n_images=1, n_boxes=0)
    assert found.sentence() == "AP is not defined without objects to find (1 images, 0 boxes)"
    assert average_precision([], [], ["x"]).ap is None


def test_the_sentence_gives_the_figures() -> None:
    found = average_precision([detections([A], [0.9])], [boxes([A])], ["x"])
    assert found.sentence() == "AP 100.0, AP50 100.0 (1 images, 1 boxes)"


# ---- against the COCO project's own tool ----


def of_pycocotools(truth: dict[str, Any], results: list[dict[str, Any]]) -> list[float]:
    """AP, AP50, AP75 and AR100 in points, from a COCO object and a list of results."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = truth
        known.createIndex()
        evaluation = COCOeval(known, known.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [100 * float(evaluation.stats[i]) for i in (0, 1, 2, 8)]


def odd(corners: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """A third of the boxes without width, a third moved over the left edge or beyond it."""
    kind = draw.integers(0, 3, len(corners))
    flat = np.where((kind == 0)[:, None], corners[:, [0, 1, 0, 3]], corners)
    return flat - np.where((kind == 1)[:, None], [draw.uniform(10, 150), 0] * 2, 0)


def scene(seed: int, strange: bool = False) -> tuple[list[Boxes], list[Detections]]:
    """Up to four images with objects of three classes, crowds, and detections near and far; strange: see `odd`."""
    draw = np.random.default_rng(seed)
    targets, found = [], []
    for _ in range(draw.integers(1, 5)):
        size = (int(draw.integers(50, 400)), int(draw.integers(50, 400)))
        n = int(draw.integers(0, 8))
        low = draw.uniform(0, 0.7, (n, 2))
        corners = np.concatenate([low, low + draw.uniform(0.02, 0.3, (n, 2))], axis=1) * [*size[::-1], *size[::-1]]
        corners = odd(corners, draw) if strange else corners
        labels = draw.integers(0, 3, n)
        area = draw.uniform(1, 20_000, n)
        targets.append(boxes_from_xyxy(corners, labels, size, draw.random(n) < 0.2, area))
        near = np.repeat(corners, 2, axis=0) + draw.normal(0, 3, (2 * n, 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        far = draw.uniform(0, 40, (3, 2))
        spots = np.concatenate([near, np.concatenate([far, far + 10], axis=1)]).astype(np.float32)
        kinds = np.concatenate([np.repeat(labels, 2), draw.integers(0, 3, 3)])
        found.append(Detections(draw.random(len(spots)).astype(np.float32), kinds.astype(np.int64), spots))
    return targets, found


def as_coco(targets: list[Boxes], found: list[Detections]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The scene in COCO's two forms."""

    def xywh(corners: Any) -> list[float]:
        x0, y0, x1, y1 = (float(value) for value in corners)
        return [x0, y0, x1 - x0, y1 - y0]

    annotations: list[dict[str, Any]] = []
    for i, known in enumerate(targets):
        for box, label, crowd, area in zip(known.xyxy(), known.classes, known.crowd, known.area, strict=True):
            entry = {"image_id": i, "category_id": int(label), "bbox": xywh(box), "iscrowd": int(crowd)}
            annotations.append({**entry, "area": float(area), "id": len(annotations) + 1})
    results = [
        {"image_id": i, "category_id": int(label), "bbox": xywh(box), "score": float(score)}
        for i, one in enumerate(found)
        for box, label, score in zip(one.boxes, one.classes, one.scores, strict=True)
    ]
    images = [{"id": i, "height": known.size[0], "width": known.size[1]} for i, known in enumerate(targets)]
    categories = [{"id": i, "name": str(i)} for i in range(3)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("strange", [False, True])
def test_random_scenes_score_as_with_pycocotools(strange: bool, seed: int) -> None:
    targets, found = scene(seed, strange)
    ours = average_precision(found, targets, ["0", "1", "2"])
    if not ours.n_boxes:
        assert ours.ap is None
        return
    assert [ours.ap, ours.ap50, ours.ap75, ours.ar100] == pytest.approx(of_pycocotools(*as_coco(targets, found)))


@pytest.mark.parametrize("strange", [False, True])
def test_a_folder_scores_as_pycocotools_scores_its_file(tmp_path: Path, strange: bool) -> None:
    draw = np.random.default_rng(0)
    names = [f"{i}.png" for i in range(9)]
    annotations = [
        {"image_id": i, "category_id": (3, 7)[j % 2], "bbox": [j + 0.25, 1.5, 4.25, 5 + j], "iscrowd": int(j == 4)}
        for i in range(9)
        for j in range(min(i, 5))
    ]
    if strange:  # a box without width, one over the left edge; the last begins where its image ends
        annotations[3]["bbox"], annotations[5]["bbox"] = [1.5, 2, 0, 4], [-2.5, 2, 6, 5]
        annotations += [{"image_id": 0, "category_id": 3, "bbox": [1, 1, 3, 3], "iscrowd": 0} for _ in range(100)]
        annotations.append({"image_id": 8, "category_id": 3, "bbox": [16, 2, 6, 5], "iscrowd": 0})
    for annotation in annotations:
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    for split in ("train", "test"):
        write_images(tmp_path / split, names, seed=len(split))
        file = write_json(tmp_path / split / "_annotations.coco.json", coco(names, annotations))
    test = open_data(f"coco:{tmp_path}").test
    assert isinstance(test, BoxSet)
    found, results = [], []
    for i, own in enumerate(test.ids):
        known = test.boxes(i)
        spots = (known.xyxy() + draw.normal(0, 0.7, (len(known), 4))).astype(np.float32)
        found.append(Detections(draw.random(len(known)).astype(np.float32), known.classes, spots))
        image_id = names.index(own.removeprefix("test/"))
        for box, label, score in zip(spots.tolist(), known.classes, found[-1].scores, strict=True):
            shape = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            results.append({"image_id": image_id, "category_id": (3, 7)[label], "bbox": shape, "score": float(score)})
    ours = average_precision(found, [test.boxes(i) for i in range(9)], test.classes)
    theirs = of_pycocotools(json.loads(file.read_text()), results)
    assert [ours.ap, ours.ap50, ours.ap75, ours.ar100] == pytest.approx(theirs)
    assert 0 < theirs[0] < 100


# ---- manners ----


def test_nothing_is_printed_or_logged(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    average_precision([detections([A], [0.9])], [boxes([A])], ["x"])
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_the_arguments_stay_as_they_are() -> None:
    truth, found = boxes([A, B]), detections([A], [0.9])
    before = truth.boxes.copy(), found.boxes.copy()
    average_precision([found], [truth], ["x"])
    assert np.array_equal(truth.boxes, before[0])
    assert np.array_equal(found.boxes, before[1])


def test_lists_of_other_lengths_are_refused() -> None:
    with pytest.raises(DataError, match="got 1 and 2"):
        average_precision([NOTHING], [boxes([A])] * 2, ["x"])


@pytest.mark.parametrize("label", [-1, 2])
def test_classes_outside_are_refused(label: int) -> None:
    with pytest.raises(ClassMismatchError, match=f"0 to 1; got {label} to {label} in the detections of image 0"):
        average_precision([detections([A], [0.9], [label])], [boxes([A])], ["x", "y"])
    with pytest.raises(ClassMismatchError, match="annotations of image 0"):
        average_precision([NOTHING], [boxes([A], classes=[label])], ["x", "y"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_detections_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(NonFiniteError, match="image 0"):
        average_precision([detections([A], [bad])], [boxes([A])], ["x"])
    with pytest.raises(NonFiniteError, match="image 0"):
        average_precision([detections([[0, 0, bad, 1]], [0.5])], [boxes([A])], ["x"])


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(MissingExtraError, match=r"\.\[host\]"):
        average_precision([NOTHING], [boxes([A])], ["x"])
