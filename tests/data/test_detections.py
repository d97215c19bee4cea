"""From raw outputs to detections."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpusq.data import Detections, detections_of
from gpusq.errors import DataError, NonFiniteError

BOXES = np.array([[0.5, 0.5, 0.2, 0.4], [0.1, 0.2, 0.2, 0.2]], np.float32)


def test_softmax_gives_each_query_its_best_class_but_no_object() -> None:
    logits = np.log(np.array([[0.2, 0.5, 0.3], [0.05, 0.05, 0.9]], np.float32))
    found = detections_of(logits, BOXES, "softmax", (100, 200))
    assert found.classes.tolist() == [1, 0]
    assert found.scores.tolist() == pytest.approx([0.5, 0.05])
    assert found.boxes[0].tolist() == pytest.approx([80, 30, 120, 70])


def test_sigmoid_lets_a_query_speak_for_several_classes() -> None:
    logits = np.array([[3.0, 2.0], [-9.0, 2.5]], np.float32)
    found = detections_of(logits, BOXES, "sigmoid", (100, 100), top=3)
    assert found.classes.tolist() == [0, 1, 1]
    assert found.scores.tolist() == pytest.approx((1 / (1 + np.exp([-3.0, -2.5, -2.0]))).tolist())
    assert found.boxes[0].tolist() == found.boxes[2].tolist() == pytest.approx([40, 30, 60, 70])


@given(st.integers(0, 2**32 - 1), st.integers(1, 150), st.integers(1, 5), st.sampled_from(["softmax", "sigmoid"]))
def test_the_best_come_first_and_no_more_than_asked_for(seed: int, queries: int, classes: int, kind: str) -> None:
    draw = np.random.default_rng(seed)
    logits = draw.normal(0, 5, (queries, classes + 1)).astype(np.float32)
    found = detections_of(logits, draw.random((queries, 4)), kind, (64, 32))  # type: ignore[arg-type]
    candidates = queries if kind == "softmax" else queries * (classes + 1)
    assert len(found) == min(100, candidates)
    assert (np.diff(found.scores) <= 0).all()
    assert found.classes.min() >= 0
    assert found.classes.max() < classes + (kind == "sigmoid")
    assert ((found.scores >= 0) & (found.scores <= 1)).all()


def test_equal_scores_keep_the_order_of_the_queries() -> None:
    boxes = np.linspace(0.1, 0.9, 12).reshape(3, 4)
    found = detections_of(np.zeros((3, 2)), boxes, "softmax", (1, 1))
    assert np.allclose((found.boxes[:, 2:] - found.boxes[:, :2]), boxes[:, 2:], atol=1e-6)


def test_extreme_logits_are_read_without_a_warning() -> None:
    logits = np.array([[-1e30, 1e30], [1e30, -1e30]])
    for kind in ("softmax", "sigmoid"):
        assert detections_of(logits, BOXES, kind, (10, 10)).scores.max() == 1  # type: ignore[arg-type]


def test_a_threshold_keeps_what_reaches_it() -> None:
    found = Detections(np.array([0.9, 0.5, 0.4], np.float32), np.arange(3), np.zeros((3, 4), np.float32))
    assert found.above(0.5).classes.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("logits", "boxes"),
    [(np.zeros((2, 1)), BOXES), (np.zeros((3, 2)), BOXES), (np.zeros((2, 2)), BOXES[:, :3]), (np.zeros(2), BOXES)],
)
def test_other_shapes_are_refused(logits: np.ndarray, boxes: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"logits \[Q, K'\] and boxes \[Q, 4\]"):
        detections_of(logits, boxes, "softmax", (10, 10))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(NonFiniteError):
        detections_of(np.full((2, 2), bad), BOXES, "softmax", (10, 10))
    with pytest.raises(NonFiniteError):
        detections_of(np.zeros((2, 2)), np.full((2, 4), bad), "sigmoid", (10, 10))


def test_detections_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(DataError, match=r"\[2\], \[3\] and \[2, 4\]"):
        Detections(np.zeros(2, np.float32), np.zeros(3, np.int64), np.zeros((2, 4), np.float32))
