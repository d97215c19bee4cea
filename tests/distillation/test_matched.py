"""Losses on queries of student and teacher that are matched with each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gpusq.detection import CONFIDENT
from gpusq.distillation.hungarian import Activation
from gpusq.distillation.matched import (
    agreement,
    batch_first,
    in_students_order,
    labels_of,
    match_queries,
    matched_soft_loss,
    teacher_targets,
)
from tests.distillation.box_samples import CLASSES, outputs, permuted

seeds = st.integers(0, 10_000)
activations = st.sampled_from(["softmax", "sigmoid"])
BOTH = pytest.mark.parametrize("activation", ["softmax", "sigmoid"])


@settings(max_examples=20, deadline=None)
@given(seeds, activations)
def test_order_of_either_models_queries_changes_nothing(seed: int, activation: Activation) -> None:
    student, teacher = outputs(2, 7, activation, seed), outputs(2, 7, activation, seed + 1)
    pairs = match_queries(student, teacher, activation)
    for other in (
        match_queries(permuted(student, seed), teacher, activation),
        match_queries(student, permuted(teacher, seed), activation),
    ):
        soft = matched_soft_loss(other, activation, 2.0)
        torch.testing.assert_close(soft, matched_soft_loss(pairs, activation, 2.0))
        torch.testing.assert_close(agreement(other, activation), agreement(pairs, activation))


@settings(max_examples=20, deadline=None)
@given(seeds, activations)
def test_equal_models_have_no_loss_and_agree_even_when_permuted(seed: int, activation: Activation) -> None:
    teacher = outputs(2, 7, activation, seed)
    pairs = match_queries(permuted(teacher, seed), teacher, activation)
    assert abs(float(matched_soft_loss(pairs, activation))) < 1e-6
    assert bool((agreement(pairs, activation) == 1).all())
    torch.testing.assert_close(pairs.student_boxes, pairs.teacher_boxes, rtol=0, atol=0)


@BOTH
def test_an_equal_student_is_at_the_minimum(activation: Activation) -> None:
    teacher = outputs(1, 6, activation, 4)
    logits = teacher[0].clone().requires_grad_()
    pairs = match_queries((logits, teacher[1]), teacher, activation)
    matched_soft_loss(pairs, activation).backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-6
    off = match_queries((teacher[0] + 0.5 * torch.randn_like(teacher[0]), teacher[1]), teacher, activation)
    assert float(matched_soft_loss(off, activation)) > 1e-4


@settings(max_examples=20, deadline=None)
@given(seeds, activations)
def test_a_batch_is_the_mean_of_its_images(seed: int, activation: Activation) -> None:
    student, teacher = outputs(3, 5, activation, seed), outputs(3, 5, activation, seed + 1)
    pairs = match_queries(student, teacher, activation)
    singles = [
        match_queries((student[0][i : i + 1], student[1][i : i + 1]), (teacher[0][i : i + 1], teacher[1][i : i + 1]), a)
        for i, a in enumerate([activation] * 3)
    ]
    losses = torch.stack([matched_soft_loss(p, activation) for p in singles])
    torch.testing.assert_close(matched_soft_loss(pairs, activation), losses.mean())
    torch.testing.assert_close(agreement(pairs, activation), torch.cat([agreement(p, activation) for p in singles]))


@BOTH
def test_the_gate_is_off_where_classes_disagree_and_half_where_half_do(activation: Activation) -> None:
    logits, boxes = outputs(3, 4, activation, 0)
    logits[:] = -9.0
    logits[:, :, 0] = 9.0  # four objects of class 0
    other = logits.clone()
    other[0, :, 0], other[0, :, 1] = -9.0, 9.0
    other[1, :2, 0], other[1, :2, 1] = -9.0, 9.0
    gate = agreement(match_queries((other, boxes), (logits, boxes), activation), activation)
    assert gate.tolist() == [0.0, 0.5, 1.0]


@settings(max_examples=40, deadline=None)
@given(seeds, st.floats(0.001, 0.99), activations)
def test_the_gate_of_hesitant_models_is_that_of_sure_ones(seed: int, height: float, activation: Activation) -> None:
    """All scores at one height, low or high: the share of matched queries whose classes are equal."""
    logits, boxes = outputs(2, 6, activation, seed)
    other, _ = outputs(2, 6, activation, seed + 1)
    raised, spoiled = (at_height(x, height, activation) for x in (logits, other))
    pairs = match_queries((spoiled, boxes), (raised, boxes), activation)
    same = best_class(pairs.student_logits) == best_class(pairs.teacher_logits)
    torch.testing.assert_close(agreement(pairs, activation), same.float().mean(dim=1))


def best_class(logits: Tensor) -> Tensor:
    return logits[..., :CLASSES].argmax(-1)


def at_height(logits: Tensor, height: float, activation: Activation) -> Tensor:
    """Logits whose best class of each query has the score `height`, the others less; softmax: "no object" the rest."""
    classes = logits[..., :CLASSES]
    best = classes == classes.amax(-1, keepdim=True)
    if activation == "sigmoid":
        top = torch.logit(torch.tensor(height))
        return torch.where(best, top, top - 3)
    least = (1 - height) * 1e-3 / CLASSES
    rest = torch.full_like(logits[..., :1], 1 - height - (CLASSES - 1) * least)
    return torch.cat([torch.where(best, height, least), rest], dim=-1).log()


def empty(activation: Activation, batch: int = 1) -> tuple[Tensor, Tensor]:
    """(logits [B, 4, K'], boxes) of queries that all hold nothing."""
    logits, boxes = outputs(batch, 4, activation, 0)
    logits[:] = -9.0
    if activation == "softmax":
        logits[..., -1] = 0.0
    return logits, boxes


def raised(logits: Tensor, image: int, query: int, label: int, score: float) -> None:
    """Give one query of `empty` a class with a score, in place."""
    row = torch.full_like(logits[image, query], -9.0)
    if len(row) > CLASSES:
        row[-1] = 0.0
    row[label] = torch.logit(torch.tensor(score))  # under softmax the score but for 3e-4: "no object" has the rest
    logits[image, query] = row


@BOTH
def test_hesitant_models_are_told_apart_by_the_better_half_of_their_queries(activation: Activation) -> None:
    logits, boxes = empty(activation)
    raised(logits, 0, 0, 0, 0.12)  # two queries, the better half
    raised(logits, 0, 1, 0, 0.12)
    other = logits.clone()
    raised(other, 0, 0, 1, 0.12)  # one of the two of another class
    for student, expected in ((logits, 1.0), (other, 0.5)):
        pairs = match_queries((student, boxes), (logits, boxes), activation)
        assert agreement(pairs, activation).tolist() == [expected]


@BOTH
def test_the_better_half_is_asked_only_where_neither_is_sure(activation: Activation) -> None:
    logits, boxes = empty(activation)
    raised(logits, 0, 0, 0, CONFIDENT + 0.01)
    other = logits.clone()
    for query in (1, 2, 3):
        raised(other, 0, query, 1, 0.12)  # of another class than the teacher's, but below the bar
    assert agreement(match_queries((other, boxes), (logits, boxes), activation), activation).tolist() == [1.0]


def test_a_class_below_no_object_is_still_what_the_query_found() -> None:
    """0.40 beside "no object" at 0.44: a detection from 0.3 on, whose change of class closes the gate."""
    logits, boxes = outputs(1, 6, "softmax", 0)
    logits[:] = -9.0
    logits[..., -1] = 0.0
    logits[0, :2] = torch.tensor([0.40, 0.16, 1e-6, 0.44]).log()
    other = logits.clone()
    other[0, :2] = torch.tensor([0.16, 0.40, 1e-6, 0.44]).log()
    assert agreement(match_queries((other, boxes), (logits, boxes), "softmax"), "softmax").tolist() == [0.0]
    ((classes, found),) = teacher_targets(logits, boxes, "softmax")
    assert classes.tolist() == [0, 0]
    assert torch.equal(found, boxes[0, :2])


@settings(max_examples=40, deadline=None)
@given(seeds, st.floats(0.12, 0.29), activations)
def test_a_hesitant_teacher_still_gives_targets_in_every_image_that_has_its_best(
    seed: int, height: float, activation: Activation
) -> None:
    logits, boxes = outputs(2, 6, activation, seed)
    hesitant = at_height(logits, height, activation)
    hesitant[:, 3:] = empty(activation)[0][0, 0]
    for image, (classes, found) in enumerate(teacher_targets(hesitant, boxes, activation)):
        assert torch.equal(classes, best_class(hesitant[image, :3]))
        assert torch.equal(found, boxes[image, :3])


@BOTH
def test_images_on_which_a_teacher_sees_less_than_elsewhere_have_no_targets(activation: Activation) -> None:
    for height in (0.9, 0.25):  # a sure teacher and a hesitant one, each with an empty second image
        logits, boxes = empty(activation, 2)
        for query in range(4):
            raised(logits, 0, query, 0, height if query == 0 else 0.1)
            raised(logits, 1, query, 0, 0.1)
        counts = [len(classes) for classes, _ in teacher_targets(logits, boxes, activation)]
        assert counts == [1, 0]


@BOTH
def test_the_gate_is_open_where_neither_sees_an_object(activation: Activation) -> None:
    logits, boxes = outputs(1, 4, activation, 0)
    logits[:] = -9.0
    if activation == "softmax":
        logits[..., -1] = 9.0
    assert agreement(match_queries((logits, boxes), (logits, boxes), activation), activation).tolist() == [1.0]
    ((classes, found),) = teacher_targets(logits, boxes, activation)
    assert (classes.shape, found.shape) == ((0,), (0, 4))


@BOTH
def test_the_teachers_own_detections_are_targets(activation: Activation) -> None:
    logits, boxes = outputs(1, 4, activation, 0)
    logits[:] = -9.0
    if activation == "softmax":
        logits[..., -1] = 0.0
    logits[0, 2, 1] = 9.0
    assert labels_of(logits, activation).tolist() == [[3, 3, 1, 3]]
    ((classes, found),) = teacher_targets(logits, boxes, activation)
    assert classes.tolist() == [1]
    assert torch.equal(found, boxes[0, 2:3])


@BOTH
def test_models_with_different_numbers_of_queries_are_matched_where_they_can(activation: Activation) -> None:
    student, teacher = outputs(2, 9, activation, 0), outputs(2, 4, activation, 1)
    pairs = match_queries(student, teacher, activation)
    assert pairs.student_logits.shape == pairs.teacher_logits.shape == (2, 4, teacher[0].shape[-1])
    assert bool(torch.isfinite(matched_soft_loss(pairs, activation)))


def test_block_outputs_over_queries_follow_the_matching_and_others_stay() -> None:
    teacher = outputs(2, 5, "sigmoid", 0)
    order = torch.tensor([3, 1, 4, 0, 2])
    student = (teacher[0][:, order], teacher[1][:, order])
    pairs = match_queries(student, teacher, "sigmoid")
    features = {"decoder": torch.randn(2, 5, 8), "encoder": torch.randn(2, 9, 8)}
    mine = {"decoder": features["decoder"][:, order], "encoder": features["encoder"]}
    for student_features in (mine, {}):
        found = in_students_order(features, pairs, 5, student_features)
        assert torch.equal(found["decoder"], features["decoder"][:, order])
        assert torch.equal(found["encoder"], features["encoder"])


def test_tokens_that_are_as_many_as_the_queries_keep_their_places() -> None:
    teacher = outputs(2, 5, "sigmoid", 0)
    order = torch.tensor([3, 1, 4, 0, 2])
    pairs = match_queries((teacher[0][:, order], teacher[1][:, order]), teacher, "sigmoid")
    tokens = {"encoder": torch.randn(2, 5, 8)}
    student = {"encoder": tokens["encoder"] + 0.1 * torch.randn(2, 5, 8)}
    assert torch.equal(in_students_order(tokens, pairs, 5, student)["encoder"], tokens["encoder"])


def test_the_batch_is_brought_in_front() -> None:
    x = torch.randn(6, 2, 4)
    found = batch_first({"first": torch.ones(2, 3, 4), "turned": x, "windows": torch.arange(24.0).view(6, 4)}, 2)
    assert found["first"].shape == (2, 3, 4)
    assert torch.equal(found["turned"], x.transpose(0, 1))
    assert found["windows"].tolist()[1] == [[12.0, 13, 14, 15], [16, 17, 18, 19], [20, 21, 22, 23]]
