"""Boxes count as much as scores, in any order of the queries; what agrees passes, each single fault is seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpusq.errors import ParityError
from gpusq.graph.output_parity import compare_outputs
from gpusq.graph.parity import Parity, check_parity
from tests.sabotage_boxes import FAULTS, Outputs, moved, permuted, shifted, swapped, wider

SEEDS = st.integers(0, 2**32 - 1)
DETECTOR = {"task": "detection", "activation": "softmax"}
FLOAT, INT8 = {"relative": 1e-4, "top1": 0.995}, {"relative": None, "top1": 0.995, "mean_iou": 0.9, "score": 0.05}


def detector(seed: int, images: int = 3, queries: int = 12) -> Outputs:
    """Outputs of a trained detector: half of the queries sure of one of three classes, boxes 0.15 to 0.3 wide."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(0, 0.3, (images, queries, 4))
    logits[..., 3] += 5
    for image in range(images):
        for query in draw.permutation(queries)[: queries // 2]:
            logits[image, query, draw.integers(0, 3)] += 7
    boxes = np.concatenate(
        [draw.uniform(0.2, 0.8, (images, queries, 2)), draw.uniform(0.15, 0.3, (images, queries, 2))], 2
    )
    return {"logits": logits.astype(np.float32), "boxes": boxes.astype(np.float32)}


def grid(seed: int) -> Outputs:
    """The same with boxes that touch nowhere, so that there is one way to pair them."""
    good = detector(seed)
    centres = np.stack(np.meshgrid([0.2, 0.4, 0.6, 0.8], [0.2, 0.5, 0.8]), -1).reshape(1, 12, 2)
    good["boxes"][..., :2] = centres
    good["boxes"][..., 2:] /= 2
    return good


def noisy(outputs: Outputs, seed: int, size: float) -> Outputs:
    draw = np.random.default_rng(seed)
    return {name: (a * (1 + size * draw.uniform(-1, 1, a.shape))).astype(np.float32) for name, a in outputs.items()}


def held(parity: Parity, bars: dict[str, Any]) -> bool:
    try:
        check_parity(parity, what="it", **bars)
    except ParityError:
        return False
    return True


@pytest.mark.parametrize("bars", [FLOAT, INT8], ids=["float", "int8"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("order", ["same order", "other order"])
@given(seed=SEEDS)
def test_every_fault_is_refused_in_either_order(bars: dict[str, Any], fault: str, order: str, seed: int) -> None:
    good = detector(seed)
    found = FAULTS[fault](good)
    assert not held(compare_outputs(DETECTOR, good, permuted(found) if order == "other order" else found), bars)


@given(seed=SEEDS)
def test_another_order_passes_with_the_noise_of_the_file(seed: int) -> None:
    good = detector(seed)
    for size, bars in ((1e-6, FLOAT), (5e-3, INT8)):
        for found in (noisy(good, seed, size), permuted(noisy(good, seed, size))):
            parity = compare_outputs(DETECTOR, good, found)
            assert held(parity, bars)
            assert parity.relative <= size * 1.2  # and the last bit of float32
            assert parity.top1 == 1.0
    assert (parity.paired, parity.matched, parity.task) == (True, parity.n, "detection")


@given(seed=SEEDS)
def test_the_figures_are_those_of_the_fault(seed: int) -> None:
    good = grid(seed)
    wide = compare_outputs(DETECTOR, good, wider(good))
    assert wide.mean_iou == pytest.approx(1 / 1.2, abs=1e-4)
    assert wide.score == pytest.approx(0.0, abs=1e-6)
    far = compare_outputs(DETECTOR, good, moved(good))
    assert far.relative == pytest.approx(0.02 / good["boxes"].max(), rel=1e-3)
    assert far.paired is False
    off = compare_outputs(DETECTOR, good, shifted(good))
    assert (off.score, off.worst_score) == (pytest.approx(0.2, abs=1e-5), pytest.approx(0.2, abs=1e-5))
    assert off.mean_iou == pytest.approx(1.0)


def test_in_order_the_raw_error_of_a_query_that_nobody_is_sure_of_counts() -> None:
    good = detector(0)
    found = {name: values.copy() for name, values in good.items()}
    hesitant = int(good["logits"][0, :, 3].argmax())
    found["boxes"][0, hesitant, 0] += 0.05
    parity = compare_outputs(DETECTOR, good, found)
    assert (parity.paired, parity.top1) == (False, 1.0)
    assert parity.relative == pytest.approx(0.05 / good["boxes"].max(), rel=1e-3)


def test_a_lost_box_in_another_order_counts_but_not_in_the_error_of_what_both_found() -> None:
    good = detector(1, images=8, queries=20)
    found = permuted(noisy(good, 0, 1e-3))
    found["boxes"][0, int(found["logits"][0, :, :3].max(axis=-1).argmax())] = 0.9, 0.9, 0.02, 0.02
    parity = compare_outputs(DETECTOR, good, found)
    assert (parity.n, parity.matched) == (80, 79)
    assert parity.top1 == pytest.approx(79 / 80)
    assert parity.relative > 0.1
    assert parity.relative_found is not None
    assert parity.relative_found < 2e-3


@pytest.mark.parametrize(("queries", "turn"), [(12, False), (100, False), (12, True)])
@pytest.mark.parametrize("far", [0.02, 0.05, 0.1, 0.2, 0.3, 0.5])
def test_the_box_of_a_query_that_nobody_is_sure_of_counts_however_far_it_moved(
    queries: int, far: float, turn: bool
) -> None:
    good = detector(0, queries=queries)
    bad = {name: values.copy() for name, values in good.items()}
    bad["boxes"][0, int(good["logits"][0, :, 3].argmax()), 0] += far
    assert not held(compare_outputs(DETECTOR, good, permuted(bad) if turn else bad), FLOAT)


def test_a_selection_may_exchange_its_last_query() -> None:
    good = detector(5, images=4, queries=100)  # 400 queries: two may have no partner
    bad = permuted(good)
    worst = int(bad["logits"][0, :, :3].max(axis=-1).argmin())
    bad["boxes"][0, worst] = 0.99, 0.01, 0.3, 0.3
    assert held(compare_outputs(DETECTOR, good, bad), FLOAT)
    for image in range(3):
        bad["boxes"][image, int(bad["logits"][image, :, :3].max(axis=-1).argmin())] = 0.99, 0.01, 0.3, 0.3
    assert not held(compare_outputs(DETECTOR, good, bad), FLOAT)
    sure = permuted(good)
    sure["boxes"][0, int(sure["logits"][0, :, :3].max(axis=-1).argmax())] = 0.99, 0.01, 0.3, 0.3
    assert not held(compare_outputs(DETECTOR, good, sure), FLOAT)


def faint_objects(seed: int) -> Outputs:
    """A sigmoid detector of one class on 12 images: each three sure objects, six faint ones, the rest noise."""
    draw = np.random.default_rng(seed)
    scores = draw.uniform(0.005, 0.03, (12, 100, 1))
    for image in scores:
        found = draw.permutation(100)[:9]
        image[found[:3], 0], image[found[3:], 0] = draw.uniform(0.4, 0.9, 3), draw.uniform(0.1, 0.28, 6)
    boxes = np.concatenate([draw.uniform(0.1, 0.9, (12, 100, 2)), draw.uniform(0.05, 0.15, (12, 100, 2))], 2)
    return {"logits": np.log(scores / (1 - scores)).astype(np.float32), "boxes": boxes.astype(np.float32)}


@given(seed=SEEDS)
def test_faint_objects_that_moved_are_refused_under_every_bar(seed: int) -> None:
    good, sigmoid = faint_objects(seed), {"task": "detection", "activation": "sigmoid"}
    bad = {name: values.copy() for name, values in good.items()}
    faint = (good["logits"][..., 0] < np.log(0.3 / 0.7)) & (good["logits"][..., 0] > np.log(0.05 / 0.95))
    bad["boxes"][faint, :2] = (bad["boxes"][faint, :2] + 0.3) % 1
    parity = compare_outputs(sigmoid, good, bad)
    assert parity.top1 == 1.0
    assert parity.faint is not None
    assert parity.faint < 0.5
    for bars in (FLOAT, INT8 | {"faint": 0.75}):
        assert not held(parity, bars)
        assert held(compare_outputs(sigmoid, good, permuted(good)), bars)


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1])
def test_a_detection_whose_score_vanished_was_not_found_by_both(share: float) -> None:
    good = detector(1, images=10, queries=100)  # 50 sure ones in each image
    bad = {name: values.copy() for name, values in good.items()}
    sure = np.argwhere(good["logits"].argmax(-1) != 3)
    lost = sure[:: round(1 / share)]
    bad["logits"][lost[:, 0], lost[:, 1]] = -4, -4, -4, 6
    parity = compare_outputs(DETECTOR, good, bad)
    assert parity.top1 == pytest.approx(1 - len(lost) / len(sure))
    assert not held(parity, INT8)


def test_images_on_which_nobody_is_sure_are_compared_beside_one_with_sure_boxes() -> None:
    good = detector(2, images=20, queries=100)
    good["logits"][1:, :, :3] = -2 + 0.3 * np.random.default_rng(0).normal(size=(19, 100, 3))
    good["logits"][1:, :, 3] = 0.0
    bad = {**good, "boxes": good["boxes"].copy()}
    bad["boxes"][1:] = np.random.default_rng(3).random(bad["boxes"][1:].shape)
    parity = compare_outputs(DETECTOR, good, bad)
    assert parity.top1 == 1.0
    assert not held(parity, FLOAT)
    assert not held(parity, INT8 | {"faint": 0.75})


def test_only_a_clear_move_is_another_order() -> None:
    good = detector(2)
    swap = [1, 0, *range(2, 12)]
    swapped_queries = {name: values[:, swap] for name, values in good.items()}
    for found, other in ((good, False), (noisy(good, 0, 1e-2), False), (permuted(good), True), (swapped_queries, True)):
        assert compare_outputs(DETECTOR, good, found).paired is other


def test_where_nothing_is_paired_the_raw_error_stays() -> None:
    good = detector(3)
    parity = compare_outputs(DETECTOR, good, {**good, "boxes": good["boxes"] * np.float32([1, 1, 0.1, 0.1])})
    assert (parity.top1, parity.matched, parity.mean_iou, parity.paired) == (0.0, 0, 0.0, False)
    assert parity.relative > 0.1


def test_the_refusal_speaks_of_boxes() -> None:
    good = grid(4)
    for bars in (FLOAT, INT8, {**INT8, "relative": float("inf")}):
        for change in (swapped, wider):
            with pytest.raises(ParityError) as caught:
                check_parity(compare_outputs(DETECTOR, good, change(good)), what="export: it", **bars)
            text = str(caught.value)
            assert "in 99.5% of boxes" in text
            assert "found by both" in text
            assert "inf" not in text
            assert "top-1" not in text
            assert "image" not in text
    with pytest.raises(ParityError, match=r"overlap \(IoU\) of paired boxes of at least 0\.90.*0\.833"):
        check_parity(compare_outputs(DETECTOR, good, wider(good)), what="x", **INT8)


def test_other_tasks_are_not_held_to_boxes_and_keep_their_words() -> None:
    logits = {"logits": np.eye(4, 5, dtype=np.float32)}
    classes = compare_outputs({}, logits, {"logits": logits["logits"][::-1]})
    with pytest.raises(ParityError, match=r"99\.5% of images with the same top-1") as caught:
        check_parity(classes, what="x", **INT8)
    assert "box" not in str(caught.value)
    masks = {"masks": np.ones((2, 3, 4), np.float32)}
    with pytest.raises(ParityError, match="images with outputs alike"):
        check_parity(compare_outputs({"task": "tensors"}, masks, {"masks": -masks["masks"]}), what="x", **INT8)
    check_parity(compare_outputs({}, logits, logits), what="x", **INT8)


def test_figures_of_older_artifacts_still_open() -> None:
    old = Parity(**{"max_abs": 1e-6, "relative": 2e-6, "top1": 1.0, "n": 12})
    assert (old.task, old.mean_iou, old.score) == ("classification", None, None)
    check_parity(old, what="x", **INT8)
