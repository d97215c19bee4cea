"""The order of the data: permutations, purity, equal shares."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpusq.errors import UsageError
from gpusq.training import Settings, batch_indices, share_of, steps_in

counts = st.integers(1, 60)
seeds = st.integers(0, 2**62)


@settings(max_examples=60, deadline=None)
@given(counts, counts, seeds, st.integers(0, 3))
def test_each_pass_is_a_permutation_without_its_last_part(images: int, batch: int, seed: int, epoch: int) -> None:
    per_pass = steps_in(1, images, batch)
    steps = range(epoch * per_pass, (epoch + 1) * per_pass)
    seen = [i for step in steps for i in batch_indices(step, images, batch, seed)]
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(images))
    assert len(seen) == (images if batch > images else images // batch * batch)


@settings(max_examples=40, deadline=None)
@given(counts, counts, seeds, st.lists(st.integers(0, 50), min_size=1, max_size=10))
def test_a_step_depends_on_nothing_asked_before(images: int, batch: int, seed: int, others: list[int]) -> None:
    first = batch_indices(7, images, batch, seed)
    for step in others:
        batch_indices(step, images, batch, seed + step)
    assert batch_indices(7, images, batch, seed) == first


def test_passes_and_seeds_differ() -> None:
    orders = [tuple(batch_indices(step, 50, 50, seed)) for seed in (0, 1, 2) for step in (0, 1, 2)]
    assert len(set(orders)) == 9


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(1, 10))
def test_shares_are_equal_and_make_up_the_batch(count: int, size: int) -> None:
    indices = list(range(100, 100 + count * size))
    shares = [share_of(indices, rank, count) for rank in range(count)]
    assert [i for share in shares for i in share] == indices
    assert {len(share) for share in shares} == {size}


@pytest.mark.parametrize(("images", "count"), [(7, 2), (1, 2), (10, 4)])
def test_an_uneven_batch_is_refused(images: int, count: int) -> None:
    with pytest.raises(UsageError, match=f"evenly over {count} processes"):
        share_of(list(range(images)), 0, count)


@pytest.mark.parametrize(
    ("epochs", "images", "batch", "steps"),
    [(0, 100, 10, 0), (1, 100, 10, 10), (0.25, 100, 10, 2), (1e-9, 100, 10, 1), (3, 105, 10, 30), (2, 5, 10, 2)],
)
def test_steps_in_passes(epochs: float, images: int, batch: int, steps: int) -> None:
    assert steps_in(epochs, images, batch) == steps


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.floats(0, 0.9), st.floats(1e-6, 1))
def test_rate_rises_then_falls_and_never_exceeds_its_top(steps: int, warmup: float, top: float) -> None:
    chosen = Settings(steps, learning_rate=top, warmup=warmup)
    rates = [chosen.rate(step) for step in range(steps)]
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(top)
    assert min(rates) > 0
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_known_rates() -> None:
    chosen = Settings(12, learning_rate=1.0, warmup=1 / 6)
    assert [chosen.rate(step) for step in (0, 1, 2, 7)] == pytest.approx([0.5, 1.0, 1.0, 0.5])
    assert Settings(10, learning_rate=1.0, warmup=0.0).rate(0) == 1.0
