"""Scores, and the input statistics under them."""

from __future__ import annotations

import pytest
import torch

from gpusq.errors import NonFiniteError, PatternError
from gpusq.sparsity import InputStatistics, magnitude_score, mask_nm, prune_matrix, wanda_score


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_statistics_over_batches_are_those_of_all_rows(dtype: torch.dtype) -> None:
    x = noise(4, 6, 8)
    statistics = InputStatistics(8, dtype=dtype)
    for batch in x:
        statistics.add(batch)
    rows = x.view(-1, 8).to(dtype)
    torch.testing.assert_close(statistics.hessian, rows.t() @ rows / 24)
    torch.testing.assert_close(statistics.norm, rows.norm(dim=0))
    assert statistics.rows == 24


def test_statistics_without_hessian_give_the_same_norm_and_no_hessian() -> None:
    full, diagonal = InputStatistics(8), InputStatistics(8, hessian=False)
    for statistics in (full, diagonal):
        statistics.add(noise(32, 8))
    torch.testing.assert_close(diagonal.norm, full.norm)
    with pytest.raises(PatternError, match="hessian=True"):
        _ = diagonal.hessian


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("hessian", [True, False])
def test_statistics_refuse_values_that_are_not_finite(bad: float, hessian: bool) -> None:
    x = noise(4, 8)
    x[2, 3] = bad
    with pytest.raises(NonFiniteError):
        InputStatistics(8, hessian=hessian).add(x)


def test_statistics_refuse_another_width() -> None:
    with pytest.raises(PatternError, match="8 columns"):
        InputStatistics(8).add(noise(4, 6))


def test_wanda_with_equal_norms_is_magnitude_and_a_loud_column_wins() -> None:
    matrix = noise(16, 32)
    assert torch.equal(mask_nm(wanda_score(matrix, torch.ones(32)), 2, 4), mask_nm(magnitude_score(matrix), 2, 4))
    norm = torch.ones(32)
    norm[5] = 1e6
    assert bool(mask_nm(wanda_score(matrix, norm), 2, 4)[:, 5].all())


@pytest.mark.parametrize("score", ["magnitude", "wanda"])
def test_prune_keeps_the_kept_weights_bit_for_bit(score: str) -> None:
    matrix, statistics = noise(16, 32), InputStatistics(32)
    statistics.add(noise(64, 32, seed=1))
    pruned, mask = prune_matrix(matrix, score, statistics)  # type: ignore[arg-type]
    assert torch.equal(pruned, torch.where(mask, matrix, torch.zeros(())))
    assert int(mask.sum()) == matrix.numel() // 2


@pytest.mark.parametrize("score", ["wanda", "sparsegpt"])
@pytest.mark.parametrize("inputs", [None, InputStatistics(8)])
def test_prune_refuses_a_score_without_its_statistics(score: str, inputs: InputStatistics | None) -> None:
    with pytest.raises(PatternError, match="calibration"):
        prune_matrix(noise(4, 8), score, inputs)  # type: ignore[arg-type]


def test_prune_refuses_an_unknown_score() -> None:
    with pytest.raises(PatternError, match="magnitude, wanda, sparsegpt"):
        prune_matrix(noise(4, 8), "random")  # type: ignore[arg-type]
