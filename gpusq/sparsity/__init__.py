"""n:m masks, scores and the weight update that makes up for pruning: tensors in, tensors out."""

from gpusq.sparsity.layout import from_gemm_matrix, gemm_inputs, gemm_matrix
from gpusq.sparsity.pattern import check_nm, mask_nm, pack_mask, unpack_mask
from gpusq.sparsity.prune import SCORES, Score, prune_matrix
from gpusq.sparsity.scores import InputStatistics, magnitude_score, wanda_score
from gpusq.sparsity.sparsegpt import sparsegpt

__all__ = [
    "SCORES",
    "InputStatistics",
    "Score",
    "check_nm",
    "from_gemm_matrix",
    "gemm_inputs",
    "gemm_matrix",
    "magnitude_score",
    "mask_nm",
    "pack_mask",
    "prune_matrix",
    "sparsegpt",
    "unpack_mask",
    "wanda_score",
]
