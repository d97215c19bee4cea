"""top1, topk and agreement."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gpusq.data import agreement, top1, topk
from gpusq.errors import ClassMismatchError, DataError, NonFiniteError

logits = st.tuples(st.integers(1, 8), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.integers(-3, 3).map(float))  # few values: many ties
)


@given(logits, st.randoms(use_true_random=False))
def test_top1_is_the_share_where_argmax_is_the_label(values: np.ndarray, random: object) -> None:
    labels = np.array([random.randrange(values.shape[1]) for _ in values])  # type: ignore[attr-defined]
    assert top1(values, labels) == (values.argmax(axis=1) == labels).mean()


@given(logits)
def test_topk_grows_with_k_up_to_one_and_each_rank_is_taken_once(values: np.ndarray) -> None:
    classes = values.shape[1]
    row = values[:1]
    hits = [[topk(row, np.array([label]), k) for label in range(classes)] for k in range(1, classes + 1)]
    assert [sum(hit) for hit in hits] == list(range(1, classes + 1))
    assert (np.diff(np.array(hits), axis=0) >= 0).all()


@given(logits)
def test_a_model_agrees_with_itself_and_with_a_scaled_self(values: np.ndarray) -> None:
    assert agreement(values, values) == 1
    assert agreement(values, values * 2 + 5) == 1


def test_agreement_counts_rows() -> None:
    a = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert agreement(a, a[::-1]) == 0
    assert agreement(a, a[[0, 2, 2, 3]]) == 0.75


def test_known_values() -> None:
    values = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    labels = np.array([2, 0, 0])
    assert top1(values, labels) == pytest.approx(1 / 3)
    assert topk(values, labels, 2) == pytest.approx(2 / 3)
    assert topk(values, labels, 3) == 1


two = np.zeros((2, 3))


@pytest.mark.parametrize(
    ("values", "labels", "k", "error"),
    [
        (np.zeros(3), np.zeros(3, int), 1, DataError),
        (np.zeros((0, 3)), np.zeros(0, int), 1, DataError),
        (two, np.zeros(3, int), 1, DataError),
        (two, np.zeros((2, 1), int), 1, DataError),
        (two, np.zeros(2, int), 0, DataError),
        (two, np.zeros(2, int), 4, DataError),
        (two, np.array([0, 3]), 1, ClassMismatchError),
        (two, np.array([-1, 0]), 1, ClassMismatchError),
        (np.array([[0.0, np.nan]]), np.zeros(1, int), 1, NonFiniteError),
        (np.array([[0.0, np.inf]]), np.zeros(1, int), 1, NonFiniteError),
    ],
)
def test_what_has_no_meaning_is_refused(values: np.ndarray, labels: np.ndarray, k: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        topk(values, labels, k)


def test_agreement_refuses_nan_and_other_shapes() -> None:
    with pytest.raises(DataError, match="one shape"):
        agreement(two, np.zeros((2, 4)))
    with pytest.raises(NonFiniteError, match="row 1"):
        agreement(two, np.array([[0, 0, 0], [0, np.nan, 0]]))
