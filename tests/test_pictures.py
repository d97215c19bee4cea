"""The score from which boxes are drawn, and what is said of detectors whose scores have moved."""

from __future__ import annotations

import numpy as np

from gpusq.data import Boxes, Detections
from gpusq.pictures import THRESHOLD, count_cautions, threshold_of


def found(*scores: float) -> Detections:
    ordered = np.sort(np.array(scores, dtype=np.float32))[::-1]
    boxes = np.tile(np.array([0, 0, 1, 1], np.float32), (len(scores), 1))
    return Detections(ordered, np.zeros(len(scores), np.int64), boxes)


def objects(count: int, crowds: int = 0) -> Boxes:
    n = count + crowds
    crowd = np.arange(n) >= count
    boxes = np.tile(np.array([0.5, 0.5, 0.5, 0.5], np.float32), (n, 1))
    return Boxes(boxes, np.zeros(n, np.int64), crowd, np.full(n, 4.0, np.float32), (4, 4))


def test_a_confident_detector_keeps_the_usual_threshold() -> None:
    assert threshold_of([found(0.9, 0.8), found(0.7)], [objects(2), objects(1)]) == THRESHOLD


def test_a_hesitant_detector_shows_as_many_boxes_as_there_are_objects() -> None:
    detections = [found(0.25, 0.17, 0.05), found(0.135, 0.02)]
    least = threshold_of(detections, [objects(2, crowds=1), objects(1)])
    assert least == 0.13
    assert sum(len(one.above(least)) for one in detections) == 3


def test_it_is_a_whole_percent_that_leaves_the_last_one_in() -> None:
    least = threshold_of([found(0.256, 0.2)], [objects(1)])
    assert least == 0.25
    assert threshold_of([found(0.001)], [objects(1)]) == 0.01


def test_without_objects_or_with_few_detections_the_usual_one() -> None:
    assert threshold_of([found(0.1)], [objects(0)]) == THRESHOLD
    assert threshold_of([found(0.1)], [objects(2)]) == THRESHOLD
    assert threshold_of([], []) == THRESHOLD


def counted(dense: int, compressed: int, least: float = 0.24) -> list[str]:
    """What is said of two engines that show so many boxes on two images, and many more with smaller scores."""
    both = {
        name: [found(*[0.5] * (count - 1), 0.1, 0.2), found(least)]
        for name, count in {"dense engine": dense, "compressed engine": compressed}.items()
    }
    return count_cautions(both, least)


def test_clearly_other_counts_at_the_same_score_are_told() -> None:
    (told,) = counted(105, 64)
    assert told == (
        "at a score of 24 % the dense engine shows 105 boxes on the 2 pictured images, the compressed engine 64: "
        "choose its score threshold anew"
    )
    assert "64 boxes on the 2 pictured images, the compressed engine 105" in counted(64, 105)[0]


def test_counts_that_are_nearly_equal_are_not_told() -> None:
    assert counted(105, 90) == counted(90, 105) == counted(8, 4) == []
    assert count_cautions({}, 0.3) == []
