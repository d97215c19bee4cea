"""The n:m pattern: exactly n kept, the best ones, ties to the left; packing is lossless."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpusq.errors import NonFiniteError, PatternError
from gpusq.sparsity import check_nm, mask_nm, pack_mask, unpack_mask

PATTERNS = [(1, 4), (2, 4), (3, 4), (4, 4), (4, 8), (1, 2), (2, 5)]
few_values = st.integers(min_value=-3, max_value=3)  # few, so that ties are common


@st.composite
def scores(draw: st.DrawFn, m: int) -> torch.Tensor:
    rows, groups = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    count = rows * groups * m
    values = draw(st.lists(few_values, min_size=count, max_size=count))
    return torch.tensor(values, dtype=torch.float32).view(rows, groups * m)


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_mask_keeps_the_n_best_of_each_group_and_the_lower_index_on_ties(n: int, m: int, data: st.DataObject) -> None:
    score = data.draw(scores(m))
    mask = mask_nm(score, n, m)
    for values, kept in zip(score.view(-1, m).tolist(), mask.view(-1, m).tolist(), strict=True):
        best = sorted(range(m), key=lambda i: (-values[i], i))[:n]
        assert [i for i in range(m) if kept[i]] == sorted(best)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int32])
def test_mask_of_any_dtype_equals_that_of_float32(dtype: torch.dtype) -> None:
    score = torch.randint(-100, 100, (16, 32), generator=torch.Generator().manual_seed(0))
    assert torch.equal(mask_nm(score.to(dtype), 2, 4), mask_nm(score.float(), 2, 4))


def test_mask_over_many_chunks_equals_the_generic_path(monkeypatch: pytest.MonkeyPatch) -> None:
    score = torch.randn(13, 44, generator=torch.Generator().manual_seed(1))
    whole = mask_nm(score, 2, 4)
    monkeypatch.setattr("gpusq.sparsity.pattern.CHUNK_GROUPS", 10)
    assert torch.equal(mask_nm(score, 2, 4), whole)
    order = score.view(-1, 4).argsort(dim=-1, descending=True)
    assert torch.equal(whole.view(-1, 4), torch.zeros(143, 4, dtype=torch.bool).scatter_(-1, order[:, :2], True))


def test_mask_of_a_strided_view_and_of_infinite_scores() -> None:
    score = torch.arange(32.0).view(8, 4).t()  # not contiguous, [4, 8]
    assert torch.equal(mask_nm(score, 2, 4), mask_nm(score.contiguous(), 2, 4))
    infinite = torch.tensor([[1.0, float("inf"), 2.0, float("-inf")]])
    assert mask_nm(infinite, 2, 4).tolist() == [[False, True, True, False]]


@pytest.mark.parametrize("m", [4, 8])
def test_nan_score_is_refused_with_its_place(m: int) -> None:
    score = torch.ones(2, 8)
    score[1, 3] = float("nan")
    with pytest.raises(NonFiniteError, match=r"\[1, 3\]"):
        mask_nm(score, 2, m)


@pytest.mark.parametrize(("n", "m", "width"), [(2, 4, 770), (0, 4, 8), (5, 4, 8), (1, 0, 8)])
def test_pattern_that_does_not_fit_is_refused(n: int, m: int, width: int) -> None:
    with pytest.raises(PatternError):
        mask_nm(torch.ones(2, width), n, m)
    with pytest.raises(PatternError):
        check_nm(torch.ones(2, width), n, m)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8])
def test_check_counts_the_groups_that_break_the_pattern(dtype: torch.dtype) -> None:
    matrix = torch.tensor([[1, 0, 2, 0, 3, 3, 3, 0], [0, 0, 0, 0, 1, 1, 1, 1]], dtype=dtype)
    assert check_nm(matrix, 2, 4) == 2
    assert check_nm(matrix, 3, 4) == 1
    assert check_nm(matrix * mask_nm(matrix.float().abs(), 2, 4), 2, 4) == 0


def test_check_counts_nan_as_a_value() -> None:
    assert check_nm(torch.tensor([[float("nan"), 1.0, 1.0, 0.0]]), 2, 4) == 1


@settings(max_examples=60, deadline=None)
@given(shape=st.lists(st.integers(1, 7), min_size=1, max_size=3), seed=st.integers(0, 100))
def test_packing_is_lossless_and_eight_to_a_byte(shape: list[int], seed: int) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.5
    packed = pack_mask(mask)
    assert packed.dtype == torch.uint8
    assert packed.numel() == -(-mask.numel() // 8)
    assert torch.equal(unpack_mask(packed, shape), mask)


def test_packing_puts_the_first_value_in_the_lowest_bit() -> None:
    assert pack_mask(torch.tensor([True, False, False, True, False, False, False, False, True])).tolist() == [9, 1]


def test_unpacking_into_another_size_is_refused() -> None:
    with pytest.raises(PatternError, match="2 bytes"):
        unpack_mask(torch.zeros(3, dtype=torch.uint8), (3, 4))
