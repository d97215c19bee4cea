"""SparseGPT: prune column by column and let the columns to the right make up for the error."""

from __future__ import annotations

import torch
from torch import Tensor

from gpusq.errors import NonFiniteError, PatternError

MAX_TRIES = 6
LEAST_DAMP = 1e-5  # where the first retry starts from when damp is 0


def sparsegpt(
    matrix: Tensor, hessian: Tensor, n: int = 2, m: int = 4, damp: float = 0.01, block: int = 128
) -> tuple[Tensor, Tensor]:
    """Prune a GEMM matrix to n:m with the optimal-brain-surgeon weight update.

    matrix: [out, k], k divisible by m. hessian: mean (or sum) of x x^T over calibration inputs, [k, k]; its scale does
    not matter. damp: share of the mean diagonal added to the diagonal; raised tenfold while the Cholesky factor does
    not exist. block: columns updated lazily together. Columns whose input is always zero are pruned first and the
    kept ones stay as they are. Returns (updated weights already masked, in the dtype of matrix; bool mask), both
    [out, k]. Raises PatternError, NonFiniteError. Source: Frantar and Alistarh 2023, arXiv:2301.00774.
    """
    _check(matrix, hessian, m)
    factor = _inverse_factor(hessian, damp)
    work = matrix.detach().t().to(factor.dtype, copy=True, memory_format=torch.contiguous_format)  # [k, out]
    kept = torch.empty(work.shape, dtype=torch.bool, device=matrix.device)
    width = max(m, block - block % m)
    for start in range(0, work.shape[0], width):
        end = min(start + width, work.shape[0])
        errors = _prune_block(work[start:end], kept[start:end], factor[start:end, start:end], n, m)
        work[end:].addmm_(factor[start:end, end:].t(), errors, alpha=-1)
    mask = kept.t().contiguous()
    pruned = torch.where(mask, work.t(), 0.0).to(matrix.dtype)
    if not bool(torch.isfinite(pruned).all()):
        raise NonFiniteError("the SparseGPT update gave NaN or infinity", do="raise damp or use another score")
    return pruned, mask


def _check(matrix: Tensor, hessian: Tensor, m: int) -> None:
    k = matrix.shape[-1]
    if matrix.dim() != 2 or k % m or hessian.shape != (k, k):
        raise PatternError(
            f"sparsegpt takes a matrix [out, k] with k divisible by {m} and a hessian [k, k]",
            got=f"{list(matrix.shape)} and {list(hessian.shape)}",
            do="keep this layer dense, or collect its input statistics again",
        )
    for what, tensor in (("weights", matrix), ("hessian", hessian)):
        if not bool(torch.isfinite(tensor).all()):
            raise NonFiniteError(f"the {what} given to sparsegpt hold NaN or infinity", do="check model and images")


def _inverse_factor(hessian: Tensor, damp: float) -> Tensor:
    """Upper Cholesky factor of the inverse of the damped hessian, [k, k], float32 or wider."""
    hessian = hessian.to(torch.promote_types(hessian.dtype, torch.float32))
    mean = hessian.diagonal().mean()
    if mean <= 0:  # every input was zero: all columns are worth the same
        return torch.eye(hessian.shape[0], dtype=hessian.dtype, device=hessian.device)
    normal = hessian / mean
    tries = [damp, *(max(damp, LEAST_DAMP) * 10.0**i for i in range(1, MAX_TRIES))]
    for share in tries:
        damped = normal.clone()
        damped.diagonal().add_(share)
        factor = _factor_of_inverse(damped)
        if factor is not None:
            return factor
    raise NonFiniteError(
        "the hessian of a layer's input is not positive definite, even damped",
        got=f"damp up to {tries[-1]:g} of its mean diagonal",
        do="use more calibration images, or another score",
    )


def _factor_of_inverse(matrix: Tensor) -> Tensor | None:
    lower, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed):
        return None
    upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    good = not int(failed) and bool(torch.isfinite(upper).all()) and bool((upper.diagonal() > 0).all())
    return upper if good else None


def _prune_block(columns: Tensor, mask: Tensor, factor: Tensor, n: int, m: int) -> Tensor:
    """Prune one block in place, group by group; returns the scaled error of each column, [width, out].

    columns, mask: [width, out], one row for each column of the matrix, so that all steps run over whole rows of memory.
    factor: [width, width].
    """
    errors = torch.zeros_like(columns)
    scale = factor.diagonal()[:, None]
    for start in range(0, columns.shape[0], m):
        end = start + m
        group = columns[start:end]
        kept = _largest((group / scale[start:end]).square_(), n)
        mask[start:end] = kept
        dropped = torch.where(kept, 0.0, 1.0 / scale[start:end])
        for column in range(start, end):  # the columns of a group before it change what a column is worth
            earlier = factor[start:column, column] @ errors[start:column]
            torch.mul(columns[column] - earlier, dropped[column - start], out=errors[column])
            columns[column] -= earlier
        columns[end:].addmm_(factor[start:end, end:].t(), errors[start:end], alpha=-1)
    return errors


def _largest(score: Tensor, n: int) -> Tensor:
    """Bool [m, out]: the n largest of each column of `score` [m, out]; ties keep the upper row, as in `mask_nm`."""
    m = score.shape[0]
    beats = score[:, None] >= score[None]  # [m, m, out]
    above = torch.ones(m, m, dtype=torch.bool, device=score.device).triu(1)[:, :, None]
    below = above.transpose(0, 1)
    wins = (beats & above).sum(dim=1) + (~beats.transpose(0, 1) & below).sum(dim=1)
    return wins >= m - n
