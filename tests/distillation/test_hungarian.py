"""Matching with true boxes and the loss of a matched detector."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpusq.distillation import detection_loss, match
from gpusq.distillation.hungarian import Activation, least_cost_pairs
from gpusq.errors import ClassMismatchError, NonFiniteError
from tests.distillation.box_samples import outputs, permuted, targets

seeds = st.integers(0, 10_000)
activations = st.sampled_from(["softmax", "sigmoid"])
BOTH = pytest.mark.parametrize("activation", ["softmax", "sigmoid"])


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_pairs_have_the_least_cost_of_all_assignments(seed: int) -> None:
    cost = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
    pairs = least_cost_pairs(cost)
    best = min(sum(float(cost[q, t]) for t, q in enumerate(p)) for p in itertools.permutations(range(5), 3))
    assert float(cost[pairs.queries, pairs.targets].sum()) == pytest.approx(best, abs=1e-5)


@BOTH
def test_a_query_that_is_right_in_class_and_place_is_matched(activation: Activation) -> None:
    logits, boxes = outputs(1, 8, activation, 0)
    truth = targets([3], 1)
    boxes[0, [5, 2, 7]] = truth[0][1]
    logits[0, [5, 2, 7], truth[0][0]] = 9.0
    (pairs,) = match(logits, boxes, truth, activation)
    assert sorted(zip(pairs.targets.tolist(), pairs.queries.tolist(), strict=True)) == [(0, 5), (1, 2), (2, 7)]


@settings(max_examples=20, deadline=None)
@given(seeds, activations)
def test_order_of_queries_and_of_targets_does_not_matter(seed: int, activation: Activation) -> None:
    pair, truth = outputs(2, 7, activation, seed), targets([3, 0], seed)
    loss, _ = detection_loss(pair, truth, activation)
    order = torch.randperm(3, generator=torch.Generator().manual_seed(seed))
    turned = [(truth[0][0][order], truth[0][1][order]), truth[1]]
    again, _ = detection_loss(permuted(pair, seed + 1), turned, activation)
    torch.testing.assert_close(again, loss)


@settings(max_examples=20, deadline=None)
@given(seeds, activations)
def test_a_batch_is_the_mean_of_its_images(seed: int, activation: Activation) -> None:
    logits, boxes = outputs(3, 6, activation, seed)
    truth = targets([2, 0, 4], seed)
    whole, parts = detection_loss((logits, boxes), truth, activation)
    singles = [detection_loss((logits[i : i + 1], boxes[i : i + 1]), truth[i : i + 1], activation) for i in range(3)]
    torch.testing.assert_close(whole, torch.stack([loss for loss, _ in singles]).mean())
    for name in ("class", "l1", "giou"):
        torch.testing.assert_close(parts[name], torch.stack([p[name] for _, p in singles]).mean())


@BOTH
def test_images_without_boxes_teach_that_there_is_nothing(activation: Activation) -> None:
    logits, boxes = outputs(2, 5, activation, 0)
    logits.requires_grad_()
    boxes.requires_grad_()
    loss, parts = detection_loss((logits, boxes), targets([0, 0], 0), activation)
    loss.backward()
    assert float(parts["l1"].detach()) == float(parts["giou"].detach()) == 0.0
    assert logits.grad is not None
    assert boxes.grad is None or not bool(boxes.grad.any())
    push = logits.grad.sum(dim=(0, 1))
    assert bool((push[: 3 if activation == "softmax" else None] > 0).all())  # every object class goes down


@BOTH
def test_perfect_answers_cost_almost_nothing_and_more_boxes_than_queries_are_fine(activation: Activation) -> None:
    truth = targets([4], 3)
    logits = torch.full((1, 4, 4 if activation == "softmax" else 3), -30.0)
    logits[0, range(4), truth[0][0]] = 30.0
    loss, _ = detection_loss((logits, truth[0][1][None]), truth, activation)
    assert float(loss) < 1e-4
    more, _ = detection_loss((logits[:, :2], truth[0][1][None, :2]), truth, activation)
    assert bool(torch.isfinite(more))


@BOTH
def test_auxiliary_outputs_are_added(activation: Activation) -> None:
    first, second, truth = outputs(2, 6, activation, 0), outputs(2, 9, activation, 1), targets([2, 3], 2)
    alone = [detection_loss(x, truth, activation)[0] for x in (first, second)]
    total, parts = detection_loss((*first, (second, second)), truth, activation)
    torch.testing.assert_close(total, alone[0] + 2 * alone[1])
    torch.testing.assert_close(parts["auxiliary"], 2 * alone[1])


def test_an_auxiliary_output_with_one_column_learns_object_or_not() -> None:
    main, first, truth = outputs(1, 6, "sigmoid", 0), outputs(1, 6, "sigmoid", 1), targets([3], 2)
    one = (first[0][..., :1], first[1])
    total, _ = detection_loss((*main, (one,)), truth, "sigmoid")
    alone, _ = detection_loss(one, [(torch.zeros_like(truth[0][0]), truth[0][1])], "sigmoid")
    torch.testing.assert_close(total, detection_loss(main, truth, "sigmoid")[0] + alone)


@BOTH
def test_gradient_steps_find_the_boxes(activation: Activation) -> None:
    logits, boxes = outputs(1, 6, activation, 0)
    free = boxes.logit().requires_grad_()
    logits.requires_grad_()
    truth = targets([3], 5)
    optimizer = torch.optim.Adam([logits, free], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss, _ = detection_loss((logits, free.sigmoid()), truth, activation)
        loss.backward()
        optimizer.step()
    (pairs,) = match(logits, free.sigmoid(), truth, activation)
    found = free.sigmoid()[0, pairs.queries].detach()
    torch.testing.assert_close(found, truth[0][1][pairs.targets], rtol=0, atol=0.03)


def test_classes_beyond_the_head_and_values_that_are_not_finite_are_refused() -> None:
    logits, boxes = outputs(1, 4, "softmax", 0)
    with pytest.raises(ClassMismatchError, match="0 to 2"):
        match(logits, boxes, [(torch.tensor([3]), torch.rand(1, 4))], "softmax")
    logits[0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="finite"):
        match(logits, boxes, targets([2], 0), "softmax")


def test_an_auxiliary_output_may_match_each_target_with_several_queries() -> None:
    main, first, truth = outputs(1, 6, "sigmoid", 0), outputs(1, 9, "sigmoid", 1), targets([2], 2)
    total, _ = detection_loss((*main, ((*first, 3),)), truth, "sigmoid")
    thrice = [(truth[0][0].repeat(3), truth[0][1].repeat(3, 1))]
    torch.testing.assert_close(
        total, detection_loss(main, truth, "sigmoid")[0] + detection_loss(first, thrice, "sigmoid")[0]
    )
