"""The three losses and the weight factor: zeros, gates, sums over parts of a batch."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gpusq.distillation import (
    Weights,
    block_losses,
    distillation_loss,
    feature_loss,
    hard_loss,
    soft_loss,
    weight_factor,
)
from gpusq.distillation.factor import FLOOR
from gpusq.errors import NonFiniteError, UsageError

seeds = st.integers(0, 2**31)
temperatures = st.floats(0.25, 8)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(seeds, temperatures)
def test_soft_loss_is_zero_between_equals_and_positive_otherwise(seed: int, temperature: float) -> None:
    a, b = draw(seed, 6, 5), draw(seed + 1, 6, 5)
    assert abs(float(soft_loss(a, a, temperature))) < 1e-5
    assert float(soft_loss(a, b, temperature)) > 0


@settings(max_examples=40, deadline=None)
@given(seeds, temperatures)
def test_soft_loss_is_the_divergence_written_out(seed: int, temperature: float) -> None:
    student, teacher = draw(seed, 4, 7), draw(seed + 1, 4, 7)
    p, q = (teacher / temperature).softmax(1).double(), (student / temperature).softmax(1).double()
    expected = float((p * (p / q).log()).sum(1).mean()) * temperature**2
    assert float(soft_loss(student, teacher, temperature)) == pytest.approx(expected, rel=1e-3, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(-50, 50))
def test_soft_loss_does_not_see_a_constant_added_to_the_logits(seed: int, constant: float) -> None:
    student, teacher = draw(seed, 4, 7), draw(seed + 1, 4, 7)
    assert float(soft_loss(student + constant, teacher)) == pytest.approx(float(soft_loss(student, teacher)), rel=1e-3)


def test_hard_loss_of_a_uniform_guess_is_the_logarithm_of_the_classes() -> None:
    assert float(hard_loss(torch.zeros(3, 10), torch.tensor([0, 4, 9]))) == pytest.approx(math.log(10))


def test_losses_survive_extreme_logits() -> None:
    student, teacher = torch.tensor([[1e4, -1e4, 0.0]]), torch.tensor([[-1e4, 1e4, 0.0]])
    assert math.isfinite(float(soft_loss(student, teacher)))
    assert math.isfinite(float(hard_loss(student, torch.tensor([1]))))


def features(seed: int, batch: int) -> dict[str, Tensor]:
    return {"a": draw(seed, batch, 3, 4), "b": draw(seed + 1, batch, 5)}


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_feature_loss_is_zero_between_equals(seed: int) -> None:
    same = features(seed, 6)
    gate = torch.ones(6, dtype=torch.bool)
    assert float(feature_loss(block_losses(same, same), gate, {})) == 0.0


@settings(max_examples=30, deadline=None)
@given(seeds, st.floats(1e-2, 1e2))
def test_block_losses_are_relative_to_the_teacher(seed: int, size: float) -> None:
    mine, theirs = features(seed, 4), features(seed + 2, 4)
    found = block_losses(mine, theirs)
    scaled = block_losses({n: x * size for n, x in mine.items()}, {n: x * size for n, x in theirs.items()})
    for name, loss in found.items():
        assert loss.shape == (4,)
        torch.testing.assert_close(scaled[name], loss, rtol=1e-4, atol=1e-6)
    nothing = block_losses({n: torch.zeros_like(x) for n, x in theirs.items()}, theirs)
    torch.testing.assert_close(nothing["a"], torch.ones(4))


def test_a_teacher_of_zeros_gives_a_finite_loss() -> None:
    zeros = {"a": torch.zeros(2, 3)}
    assert bool(torch.isfinite(block_losses({"a": torch.ones(2, 3)}, zeros)["a"]).all())
    assert not block_losses(zeros, zeros)["a"].any()


def test_gated_samples_count_as_zero_but_stay_in_the_denominator() -> None:
    losses = {"a": torch.tensor([1.0, 3.0, 5.0, 7.0]), "b": torch.tensor([2.0, 0.0, 0.0, 0.0])}
    gate = torch.tensor([True, False, True, False])
    assert float(feature_loss(losses, gate, {})) == pytest.approx((1 + 5) / 4 + 2 / 4)
    assert float(feature_loss(losses, gate, {"a": 0.5, "b": 4.0})) == pytest.approx(0.5 * 6 / 4 + 4 * 2 / 4)
    assert float(feature_loss(losses, torch.zeros(4, dtype=torch.bool), {})) == 0.0


def test_no_blocks_give_zero() -> None:
    assert float(feature_loss({}, torch.ones(3, dtype=torch.bool), {})) == 0.0


def whole_loss(student: Tensor, teacher: Tensor, mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> Tensor:
    gate = student.argmax(1) == teacher.argmax(1)
    feature = feature_loss(block_losses(mine, theirs), gate, {"a": 0.4, "b": 1.6})
    return distillation_loss(
        hard_loss(student, teacher.argmax(1)), soft_loss(student, teacher, 2.0), feature, Weights()
    )


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from([2, 4, 8]))
def test_the_mean_over_equal_parts_is_the_loss_of_the_whole_batch(seed: int, parts: int) -> None:
    student, teacher = draw(seed, 8, 3), draw(seed + 1, 8, 3)
    mine, theirs = features(seed + 2, 8), features(seed + 4, 8)
    whole = whole_loss(student, teacher, mine, theirs)
    pieces = []
    for rows in torch.arange(8).chunk(parts):
        cut = [{n: x[rows] for n, x in f.items()} for f in (mine, theirs)]
        pieces.append(whole_loss(student[rows], teacher[rows], *cut))
    torch.testing.assert_close(torch.stack(pieces).mean(), whole, rtol=1e-4, atol=1e-5)


def test_weights_multiply_their_own_loss() -> None:
    one, two, three = torch.tensor(1.0), torch.tensor(10.0), torch.tensor(100.0)
    assert float(distillation_loss(one, two, three, Weights(2.0, 3.0, 4.0))) == 432.0
    assert Weights() == Weights(1.0, 10.0, 5.0, 1.0)


positive = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=24)


def named(losses: list[float]) -> dict[str, float]:
    return {f"block.{i}": loss for i, loss in enumerate(losses)}


@settings(max_examples=100, deadline=None)
@given(positive, st.sampled_from(["inverse", "proportional", "uniform"]))
def test_factors_are_positive_with_mean_one(losses: list[float], mode: Any) -> None:
    factors = weight_factor(named(losses), mode)
    assert list(factors) == list(named(losses))
    assert min(factors.values()) > 0
    assert sum(factors.values()) / len(factors) == pytest.approx(1)


@settings(max_examples=100, deadline=None)
@given(positive)
def test_inverse_turns_the_order_round_and_proportional_keeps_it(losses: list[float]) -> None:
    by_loss = sorted(named(losses), key=named(losses).__getitem__)
    inverse, proportional = weight_factor(named(losses), "inverse"), weight_factor(named(losses), "proportional")
    for low, high in pairwise(by_loss):
        assert inverse[low] >= inverse[high] * (1 - 1e-12)
        assert proportional[low] <= proportional[high] * (1 + 1e-12)


def test_inverse_is_the_default_and_known_numbers() -> None:
    factors = weight_factor({"a": 1.0, "b": 2.0, "c": 4.0})
    assert list(factors.values()) == pytest.approx([12 / 7, 6 / 7, 3 / 7])


@pytest.mark.parametrize("mode", ["inverse", "proportional", "uniform"])
def test_zeros_and_a_single_block_give_one(mode: Any) -> None:
    assert weight_factor({"a": 0.0, "b": 0.0}, mode) == {"a": 1.0, "b": 1.0}
    assert weight_factor({"a": 0.37}, mode) == {"a": pytest.approx(1.0)}
    assert weight_factor({}, mode) == {}


def test_one_zero_among_losses_does_not_explode() -> None:
    factors = weight_factor({"a": 0.0, "b": 1.0, "c": 1.0})
    assert math.isfinite(factors["a"])
    assert factors["a"] / factors["b"] == pytest.approx(1 / (FLOOR * 2 / 3))


@pytest.mark.parametrize("bad", [-1e-9, float("nan"), float("inf")])
def test_bad_losses_are_refused_by_name(bad: float) -> None:
    with pytest.raises(NonFiniteError, match="pruning loss of b"):
        weight_factor({"a": 1.0, "b": bad})


def test_an_unknown_factor_is_refused() -> None:
    with pytest.raises(UsageError, match="inverse, proportional, uniform"):
        weight_factor({"a": 1.0}, "square")  # type: ignore[arg-type]
