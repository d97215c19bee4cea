"""What a weight is worth: scores for `mask_nm`, and the input statistics that some of them need."""

from __future__ import annotations

import torch
from torch import Tensor

from gpusq.errors import NonFiniteError, PatternError


class InputStatistics:
    """Second moments of a layer's GEMM input, accumulated over batches.

    k: columns of the GEMM matrix. dtype: of the accumulator. hessian=False keeps only the diagonal (enough for
    Wanda), which is [k] instead of [k, k] of memory.
    """

    def __init__(
        self,
        k: int,
        *,
        hessian: bool = True,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        self.k, self.rows = k, 0
        self._moments = torch.zeros((k, k) if hessian else (k,), dtype=dtype, device=device)

    def add(self, x: Tensor) -> None:
        """Add GEMM inputs [..., k], as `gemm_inputs` gives them. Raises NonFiniteError on NaN or infinity."""
        if x.shape[-1] != self.k:
            raise PatternError(f"inputs have {self.k} columns", got=f"shape {list(x.shape)}", do="use gemm_inputs")
        rows = x.detach().reshape(-1, self.k).to(self._moments)
        update = rows.t() @ rows if self._moments.dim() == 2 else rows.square().sum(dim=0)
        if not bool(torch.isfinite(update).all()):
            raise NonFiniteError("the input of a layer holds NaN, infinity or overflows", do="check the images")
        self._moments += update
        self.rows += rows.shape[0]

    @property
    def hessian(self) -> Tensor:
        """Mean of x x^T over all rows: [k, k]. Raises PatternError where only the diagonal was kept."""
        if self._moments.dim() != 2:
            raise PatternError("these statistics hold only the diagonal", do="collect them with hessian=True")
        return self._moments / max(self.rows, 1)

    @property
    def norm(self) -> Tensor:
        """Euclidean norm of each input column over all rows: [k]."""
        diagonal = self._moments.diagonal() if self._moments.dim() == 2 else self._moments
        return diagonal.clamp(min=0).sqrt()


def magnitude_score(matrix: Tensor) -> Tensor:
    """|w|. matrix: [out, k]. Source: the default of NVIDIA's ASP, arXiv:2104.08378."""
    return matrix.abs()


def wanda_score(matrix: Tensor, input_norm: Tensor) -> Tensor:
    """|w_ij| * ||x_j||. matrix: [out, k], input_norm: [k]. Source: Sun et al. 2023, arXiv:2306.11695."""
    return matrix.abs() * input_norm.to(matrix)
