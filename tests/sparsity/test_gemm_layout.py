"""A layer is its GEMM: matrix times inputs equals what the layer computes, in the same column order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gpusq.errors import PatternError
from gpusq.sparsity import check_nm, from_gemm_matrix, gemm_inputs, gemm_matrix, mask_nm

CONVS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2},
    {"kernel_size": (1, 3), "padding": "same"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 3, "dilation": 2, "padding": (2, 1)},
    {"kernel_size": 4, "stride": 4},
]


@pytest.mark.parametrize("shape", [(8, 12), (8, 4, 3, 3), (6, 8, 1, 1), (5, 3, 2, 4), (4, 4, 3)])
def test_matrix_and_back(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    matrix = gemm_matrix(weight)
    assert matrix.shape == (shape[0], weight[0].numel())
    assert torch.equal(from_gemm_matrix(matrix, shape), weight)


def test_groups_of_four_run_along_input_channels() -> None:
    weight = torch.arange(8.0 * 2 * 2).view(1, 8, 2, 2)
    assert gemm_matrix(weight)[0, :8].tolist() == weight[0, :, 0, 0].tolist()
    pruned = from_gemm_matrix(gemm_matrix(weight) * mask_nm(gemm_matrix(weight), 2, 4), weight.shape)
    for row in range(2):
        for column in range(2):
            assert check_nm(pruned[:, :, row, column], 2, 4) == 0


@pytest.mark.parametrize("options", CONVS)
def test_inputs_times_matrix_is_the_convolution(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, bias=False, **options)  # type: ignore[arg-type]
    x = torch.randn(2, 4, 12, 8)
    expected = conv(x)  # [B, O, h, w]
    product = gemm_inputs(conv, x) @ gemm_matrix(conv.weight).t()  # [B * h * w, O]
    actual = product.view(2, *expected.shape[-2:], 6).permute(0, 3, 1, 2)
    torch.testing.assert_close(actual, expected)


def test_inputs_of_a_grouped_convolution_are_stacked_by_group() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 6, 3, groups=2, bias=False)
    x = torch.randn(2, 8, 5, 5)
    rows = gemm_inputs(conv, x).view(2, 2, 9, 36)  # [B, groups, places, K]
    matrix = gemm_matrix(conv.weight, 2).view(2, 3, 36)
    actual = torch.einsum("bgpk,gok->bgop", rows, matrix).reshape(2, 6, 3, 3)
    torch.testing.assert_close(actual, conv(x))


def test_inputs_of_a_linear_are_its_rows() -> None:
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(gemm_inputs(nn.Linear(8, 4), x), x.reshape(30, 8))


def test_bare_vector_is_refused() -> None:
    with pytest.raises(PatternError):
        gemm_matrix(torch.ones(8))
