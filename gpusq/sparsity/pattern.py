"""The n:m pattern: choose it, check it, store it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gpusq.errors import NonFiniteError, PatternError

CHUNK_GROUPS = 1 << 17  # groups ranked at a time; a chunk and its intermediates stay in cache


def mask_nm(score: Tensor, n: int, m: int) -> Tensor:
    """Keep the n largest scores in each group of m along the last axis.

    score: [out, in], any real dtype, `in` divisible by m; 1 <= n <= m. Returns bool [out, in], exactly n True per
    group; ties keep the lower index. Raises PatternError where n, m or `in` do not fit, NonFiniteError on NaN.
    Source: Mishra et al. 2021, arXiv:2104.08378.
    """
    _check_pattern(score.shape, n, m)
    _check_ordered(score)
    groups = score.reshape(-1, m)
    if m == 4 and n < 4:
        return _mask_of_four(groups, n).view(score.shape)
    return _mask_by_sorting(groups, n).view(score.shape)


def check_nm(matrix: Tensor, n: int, m: int) -> int:
    """Number of groups of m along the last axis that hold more than n non-zero values.

    matrix: [out, in] of any dtype, INT8 included; NaN counts as non-zero. Raises PatternError where m does not fit.
    """
    _check_pattern(matrix.shape, n, m)
    nonzero = (matrix != 0).reshape(-1, m).sum(dim=-1)
    return int((nonzero > n).sum())


def pack_mask(mask: Tensor) -> Tensor:
    """Bits of a bool mask as uint8 [ceil(numel / 8)], row-major, lowest bit first, the last byte padded with zeros."""
    flat = mask.reshape(-1).to(torch.uint8)
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)).view(-1, 8)
    return (padded << _bit_places(mask.device)).sum(dim=-1, dtype=torch.uint8)


def unpack_mask(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """Inverse of `pack_mask`: bool of the given shape. Raises PatternError where the number of bytes does not fit."""
    count = math.prod(shape)
    if packed.dtype != torch.uint8 or packed.numel() != math.ceil(count / 8):
        raise PatternError(
            f"a packed mask of shape {list(shape)} has {math.ceil(count / 8)} bytes",
            got=f"{packed.numel()} values of {packed.dtype}",
            do="use the shape that the mask was packed with",
        )
    bits = (packed.reshape(-1, 1) >> _bit_places(packed.device)) & 1
    return bits.reshape(-1)[:count].to(torch.bool).view(*shape)


def _bit_places(device: torch.device) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=device)


def _check_pattern(shape: torch.Size, n: int, m: int) -> None:
    if m < 1 or not 1 <= n <= m:
        raise PatternError("an n:m pattern keeps n of m values, 1 <= n <= m", got=f"{n}:{m}", do="use 2:4")
    if not shape or shape[-1] % m:
        raise PatternError(
            f"groups of {m} run along the last axis, whose length {m} must divide",
            got=f"shape {list(shape)}",
            do="keep this layer dense",
        )


def _check_ordered(score: Tensor) -> None:
    if score.is_floating_point() and not bool(torch.isfinite(score.sum())) and bool(torch.isnan(score).any()):
        first = torch.nonzero(torch.isnan(score))[0].tolist()
        raise NonFiniteError(f"a score is NaN at index {first}", do="check the weights and the calibration images")


def _mask_of_four(groups: Tensor, n: int) -> Tensor:
    """Rank by six comparisons: a value is kept when it beats at least 4 - n others. groups: [g, 4]."""
    mask = torch.empty(groups.shape, dtype=torch.bool, device=groups.device)
    for start in range(0, groups.shape[0], CHUNK_GROUPS):
        part = groups[start : start + CHUNK_GROUPS]
        a, b, c, d = part.t().contiguous().unbind(0)
        ab, ac, ad, bc, bd, cd = (
            (x >= y).view(torch.uint8) for x, y in ((a, b), (a, c), (a, d), (b, c), (b, d), (c, d))
        )
        wins = (ab + ac + ad, 1 - ab + bc + bd, 2 - ac - bc + cd, 3 - ad - bd - cd)
        torch.stack([w >= 4 - n for w in wins], dim=-1, out=mask[start : start + CHUNK_GROUPS])
    return mask


def _mask_by_sorting(groups: Tensor, n: int) -> Tensor:
    """Any n and m. groups: [g, m]."""
    order = torch.sort(groups, dim=-1, descending=True, stable=True).indices
    mask = torch.zeros(groups.shape, dtype=torch.bool, device=groups.device)
    return mask.scatter_(-1, order[:, :n], True)
