"""One call for every score: a GEMM matrix in, the pruned matrix and its mask out."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from gpusq.errors import PatternError
from gpusq.sparsity.pattern import mask_nm
from gpusq.sparsity.scores import InputStatistics, magnitude_score, wanda_score
from gpusq.sparsity.sparsegpt import sparsegpt

Score = Literal["magnitude", "wanda", "sparsegpt"]
SCORES: tuple[Score, ...] = get_args(Score)


def prune_matrix(
    matrix: Tensor, score: Score, inputs: InputStatistics | None = None, n: int = 2, m: int = 4
) -> tuple[Tensor, Tensor]:
    """Prune a GEMM matrix [out, k] to n:m. Returns (weights already masked, bool mask), both [out, k].

    inputs: statistics of the layer's input; not needed for "magnitude", with a hessian for "sparsegpt". Only
    "sparsegpt" changes the kept weights. Raises PatternError, NonFiniteError.
    """
    if score not in SCORES:
        raise PatternError(f"a score is one of {', '.join(SCORES)}", got=repr(score), do="choose one of them")
    matrix = matrix.detach()
    if score == "magnitude":
        return _masked(matrix, mask_nm(magnitude_score(matrix), n, m))
    if inputs is None or not inputs.rows:
        raise PatternError(f"{score} needs statistics of the layer's input", got="none", do="give calibration images")
    if score == "wanda":
        return _masked(matrix, mask_nm(wanda_score(matrix, inputs.norm), n, m))
    return sparsegpt(matrix, inputs.hessian, n, m)


def _masked(matrix: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(mask, matrix, torch.zeros((), dtype=matrix.dtype, device=matrix.device)), mask
