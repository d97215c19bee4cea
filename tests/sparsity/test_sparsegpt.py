"""SparseGPT: 2:4 holds, the weight update pays, and bad hessians are survived or refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gpusq.errors import NonFiniteError, PatternError
from gpusq.sparsity import check_nm, mask_nm, sparsegpt


def correlated(rows: int, k: int, seed: int) -> Tensor:
    """Inputs with most of their energy in k / 4 directions, [rows, k]."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(k // 4, k, generator=generator)
    shared = torch.randn(rows, k // 4, generator=generator) @ mixing / (k // 4) ** 0.5
    return shared + 0.3 * torch.randn(rows, k, generator=generator)


def output_error(x: Tensor, matrix: Tensor, pruned: Tensor) -> float:
    """Relative error of the layer's output."""
    return float((x @ (matrix - pruned).t()).norm() / (x @ matrix.t()).norm())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), out=st.sampled_from([8, 32]), k=st.sampled_from([16, 64, 72]))
def test_update_beats_its_own_mask_and_magnitude(seed: int, out: int, k: int) -> None:
    x = correlated(6 * k, k, seed)
    matrix = torch.randn(out, k, generator=torch.Generator().manual_seed(seed + 1))
    pruned, mask = sparsegpt(matrix, x.t() @ x / len(x), block=32)
    assert check_nm(pruned, 2, 4) == 0
    assert int(mask.sum()) == out * k // 2
    assert torch.equal(pruned == 0, ~mask)
    updated = output_error(x, matrix, pruned)
    assert updated < 0.85 * output_error(x, matrix, matrix * mask)
    assert updated < 0.85 * output_error(x, matrix, matrix * mask_nm(matrix.abs(), 2, 4))


def test_error_lies_nearer_to_the_best_weights_for_its_mask_than_to_no_update() -> None:
    x = correlated(400, 32, 3).double()
    matrix = torch.randn(8, 32, generator=torch.Generator().manual_seed(4)).double()
    pruned, mask = sparsegpt(matrix, x.t() @ x, damp=1e-6)
    best = torch.zeros_like(matrix)
    for row, kept in enumerate(mask):
        best[row, kept] = torch.linalg.lstsq(x[:, kept], x @ matrix[row]).solution
    least, updated, most = (output_error(x, matrix, w) for w in (best, pruned, matrix * mask))
    assert least <= updated < (least + most) / 2


@pytest.mark.parametrize("block", [4, 10, 16, 128])
def test_blocks_change_nothing_but_rounding(block: int) -> None:
    x = correlated(200, 48, 5)
    matrix = torch.randn(8, 48, generator=torch.Generator().manual_seed(6))
    whole, mask = sparsegpt(matrix, x.t() @ x, block=48)
    parts, same = sparsegpt(matrix, x.t() @ x, block=block)
    assert torch.equal(mask, same)
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-4)


def test_scale_of_the_hessian_does_not_matter() -> None:
    x = correlated(200, 32, 7)
    matrix = torch.randn(8, 32, generator=torch.Generator().manual_seed(8))
    small, large = (sparsegpt(matrix, x.t() @ x * scale)[0] for scale in (1e-9, 1e9))
    torch.testing.assert_close(small, large, rtol=1e-3, atol=1e-4)


def test_identity_hessian_is_magnitude_without_update() -> None:
    matrix = torch.randn(8, 32, generator=torch.Generator().manual_seed(9))
    pruned, mask = sparsegpt(matrix, torch.eye(32))
    assert torch.equal(mask, mask_nm(matrix.abs(), 2, 4))
    torch.testing.assert_close(pruned, matrix * mask)


def test_columns_whose_input_is_zero_go_first_and_kept_ones_stay() -> None:
    x = correlated(200, 32, 10)
    x[:, 4:6] = 0
    x[:, 8:11] = 0
    matrix = torch.randn(8, 32, generator=torch.Generator().manual_seed(11)) + 3
    pruned, mask = sparsegpt(matrix, x.t() @ x)
    assert not bool(mask[:, 4:6].any())
    kept = mask[:, 8:11]
    assert torch.equal(pruned[:, 8:11][kept], matrix[:, 8:11][kept])


def test_inputs_that_are_all_zero_fall_back_to_magnitude() -> None:
    matrix = torch.randn(8, 32, generator=torch.Generator().manual_seed(12))
    pruned, mask = sparsegpt(matrix, torch.zeros(32, 32))
    assert torch.equal(mask, mask_nm(matrix.abs(), 2, 4))
    torch.testing.assert_close(pruned, matrix * mask)


def test_singular_hessian_is_survived() -> None:
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(13))  # three rows for 64 columns
    matrix = torch.randn(8, 64, generator=torch.Generator().manual_seed(14))
    pruned, mask = sparsegpt(matrix, x.t() @ x, damp=0.0)
    assert check_nm(pruned, 2, 4) == 0
    assert output_error(x, matrix, pruned) < output_error(x, matrix, matrix * mask)


def test_hessian_that_no_damping_mends_is_refused() -> None:
    indefinite = torch.eye(8)
    indefinite[0, 1] = indefinite[1, 0] = 1e9
    with pytest.raises(NonFiniteError, match="positive definite"):
        sparsegpt(torch.ones(2, 8), indefinite)


def test_values_that_are_not_finite_are_refused() -> None:
    broken = torch.ones(2, 8)
    broken[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="weights"):
        sparsegpt(broken, torch.eye(8))
    with pytest.raises(NonFiniteError, match="hessian"):
        sparsegpt(torch.ones(2, 8), torch.eye(8) / 0)


@pytest.mark.parametrize(("k", "size"), [(10, 10), (8, 6)])
def test_shapes_that_do_not_fit_are_refused(k: int, size: int) -> None:
    with pytest.raises(PatternError):
        sparsegpt(torch.ones(2, k), torch.eye(size))


def test_dtype_of_the_weights_is_kept() -> None:
    pruned, _ = sparsegpt(torch.ones(2, 8, dtype=torch.float16), torch.eye(8))
    assert pruned.dtype == torch.float16
