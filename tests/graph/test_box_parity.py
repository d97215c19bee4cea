"""Detections are compared as sets: order means nothing, a lost box counts, and neither side is the better one."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpusq.errors import NonFiniteError, ParityError
from gpusq.graph.box_parity import Found, corners, found_of, match_detections, match_queries, overlaps

SEEDS = st.integers(0, 2**32 - 1)


def detections(seed: int, n: int, *, low: float = 0.0) -> Found:
    """n random detections, many of them of one class and on nearly one box, as fresh weights give them."""
    draw = np.random.default_rng(seed)
    base = np.round(draw.random((n, 2)) * 3) / 4
    boxes = np.concatenate([base, base + 0.1 + 0.2 * draw.random((n, 2))], axis=1)
    return Found(low + (1 - low) * draw.random(n), draw.integers(0, 3, n), boxes)


def apart(n: int, score: float = 0.9) -> Found:
    """n confident detections that touch nowhere."""
    x = np.arange(n, dtype=float)[:, None]
    return Found(np.full(n, score), np.arange(n) % 3, np.concatenate([x, x, x + 0.5, x + 0.5], axis=1))


def part(found: Found, index: np.ndarray) -> Found:
    return Found(found.scores[index], found.classes[index], found.boxes[index])


@given(SEEDS, st.integers(1, 30))
def test_a_set_agrees_with_itself_in_any_order(seed: int, n: int) -> None:
    found = detections(seed, n)
    shuffled = part(found, np.random.default_rng(seed + 1).permutation(n))
    parity = match_detections([found], [shuffled])
    assert (parity.share, parity.score, parity.worst_score) == (1.0, 0.0, 0.0)
    assert parity.n == 0 or parity.mean_iou == pytest.approx(1.0)


@given(SEEDS, SEEDS, st.integers(0, 20), st.integers(0, 20))
def test_order_and_side_mean_nothing(seed_a: int, seed_b: int, n: int, m: int) -> None:
    a, b = detections(seed_a, n), detections(seed_b, m)
    expected = match_detections([a], [b])
    draw = np.random.default_rng(seed_a)
    assert match_detections([part(a, draw.permutation(n))], [part(b, draw.permutation(m))]) == expected
    assert match_detections([b], [a]) == expected
    assert 0.0 <= expected.share <= 1.0
    assert 0.0 <= expected.score <= expected.worst_score <= 1.0


@given(st.integers(1, 20), st.data())
def test_each_lost_detection_lowers_the_share(n: int, data: st.DataObject) -> None:
    found = apart(n)
    lost = data.draw(st.integers(1, n))
    kept = part(found, np.arange(n - lost))
    assert match_detections([found], [kept]).share == pytest.approx((n - lost) / n)


@given(st.integers(1, 20), st.integers(1, 5))
def test_another_class_or_place_is_no_match(n: int, shift: int) -> None:
    found = apart(n)
    assert match_detections([found], [Found(found.scores, found.classes + 3, found.boxes)]).share == 0.0
    assert match_detections([found], [Found(found.scores, found.classes, found.boxes + n * shift)]).share == 0.0


def test_overlap_decides_at_the_threshold() -> None:
    found = apart(1)
    moved = Found(found.scores, found.classes, found.boxes + np.array([0.125, 0, 0.125, 0]))  # 3/5 of the union
    assert match_detections([found], [moved], 0.59).share == 1.0
    assert match_detections([found], [moved], 0.61).share == 0.0


def test_a_partner_just_below_the_bar_is_a_partner() -> None:
    parity = match_detections([apart(4, 0.31)], [apart(4, 0.29)], confident=0.3)
    assert (parity.share, parity.n) == (1.0, 4)
    assert parity.score == pytest.approx(0.02)


def test_what_is_not_confident_does_not_count() -> None:
    sure, noise = apart(3), apart(9, 0.1)
    both = Found(*(np.concatenate([getattr(x, n) for x in (sure, noise)]) for n in ("scores", "classes", "boxes")))
    assert replace(match_detections([both], [sure]), faint_n=0) == match_detections([sure], [sure])


def test_faint_detections_have_a_share_of_their_own() -> None:
    sure, faint = apart(3), apart(12, 0.1)
    far = Found(faint.scores, faint.classes, faint.boxes + 20)
    whole = Found(*(np.concatenate([getattr(x, n) for x in (sure, far)]) for n in ("scores", "classes", "boxes")))
    lost = part(whole, np.arange(9))
    parity = match_detections([whole], [lost])
    assert (parity.share, parity.n) == (1.0, 3)
    assert (parity.faint, parity.faint_n) == (0.5, 12)
    assert match_detections([part(whole, np.arange(8))], [part(whole, np.arange(8))]).faint is None  # too few


@pytest.mark.parametrize(("score", "found"), [(0.9, True), (0.46, True), (0.44, False), (0.01, False)])
def test_a_score_that_fell_below_half_is_another_detection(score: float, found: bool) -> None:
    assert match_detections([apart(4, 0.9)], [apart(4, score)]).share == float(found)


def test_fresh_weights_are_compared_by_the_better_half() -> None:
    faint = apart(8, 0.05)
    assert match_detections([faint], [faint]).n == 8
    assert match_detections([faint], [apart(4, 0.05)]).share == 0.5


def test_images_are_summed_and_empty_ones_agree() -> None:
    empty = Found(np.zeros(0), np.zeros(0, int), np.zeros((0, 4)))
    parity = match_detections([apart(3), empty, apart(1)], [apart(3), empty, empty])
    assert (parity.share, parity.n, parity.images) == (0.75, 4, 3)
    assert match_detections([empty], [empty]).share == 1.0


def test_different_numbers_of_images_are_refused() -> None:
    with pytest.raises(ParityError, match="same images"):
        match_detections([apart(1)], [])


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_answers_are_those_of_the_queries(activation: str) -> None:
    logits = np.full((1, 2, 3), -9.0)
    logits[0, 0, 1], logits[0, 1, 2] = 9.0, 8.0
    boxes = np.array([[[0.5, 0.5, 0.2, 0.4], [0.1, 0.1, 0.2, 0.2]]])
    (found,) = found_of(logits, boxes, activation, top=2)  # type: ignore[arg-type]
    if activation == "sigmoid":  # three classes
        assert found.classes.tolist() == [1, 2]
        assert found.scores == pytest.approx([1 / (1 + np.exp(-9)), 1 / (1 + np.exp(-8))])
    else:  # two classes; the second query says "no object"
        assert found.classes[0] == 1
        assert found.scores[1] < 1e-3
    assert found.boxes[0] == pytest.approx([0.4, 0.3, 0.6, 0.7])


def test_found_of_refuses_other_shapes_and_nan() -> None:
    good = np.zeros((2, 3, 4)), np.zeros((2, 3, 4))
    with pytest.raises(ParityError, match="boxes"):
        found_of(good[0], np.zeros((2, 3, 5)), "softmax")
    with pytest.raises(NonFiniteError, match="logits"):
        found_of(good[0] * np.nan, good[1], "softmax")
    with pytest.raises(ParityError, match="softmax or sigmoid"):
        found_of(*good, "tanh")  # type: ignore[arg-type]


@given(SEEDS, st.integers(1, 8))
def test_overlaps_are_symmetric_shares(seed: int, n: int) -> None:
    boxes = corners(np.random.default_rng(seed).random((n, 4)))
    found = overlaps(boxes, boxes)
    assert np.allclose(np.diag(found), 1.0)
    assert np.allclose(found, found.T)
    assert ((found >= 0) & (found <= 1 + 1e-9)).all()


@given(SEEDS, st.integers(1, 20))
def test_the_queries_of_paired_detections_are_told(seed: int, n: int) -> None:
    found = apart(n)
    order = np.random.default_rng(seed).permutation(n)
    parity, (queries,) = match_queries([found], [part(found, order)])
    assert parity.matched == n
    assert [tuple(pair) for pair in queries] == [(int(order[k]), int(k)) for k in np.argsort(order)]


def test_queries_on_one_box_are_all_possible_partners() -> None:
    one = apart(1)
    three = part(one, np.array([0, 0, 0]))
    assert match_queries([three], [three])[1][0].tolist() == [[i, j] for i in range(3) for j in range(3)]
    assert match_queries([one], [Found(one.scores, one.classes + 1, one.boxes)])[1][0].shape == (0, 2)


def test_a_few_confident_boxes_among_many_images_decide_nothing() -> None:
    lone = [apart(1)] + [apart(8, 0.1)] * 5
    assert match_detections(lone, lone).n == 1 + 5 * 8


def test_a_device_needs_numpy_alone() -> None:
    code = (
        "import sys, gpusq.graph.box_parity\n"
        "print(sorted({'torch', 'onnx', 'onnx_ir', 'onnxruntime', 'scipy', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
