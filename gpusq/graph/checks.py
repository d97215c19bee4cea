"""The file that ships is 2:4: counted on the integers that the engine builder reads, along the reduction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from gpusq.errors import SparsityCheckError
from gpusq.graph.weights import stored_weights
from gpusq.workload import Layer

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray


def violations_nm(matrix: NDArray[Any], n: int = 2, m: int = 4) -> int:
    """Groups of m along the last axis with more than n non-zeros. [rows, k]; k not divisible by m: every row counts."""
    if matrix.shape[-1] % m:
        return int(matrix.shape[0])
    nonzero = np.count_nonzero(matrix.reshape(-1, m), axis=1)
    return int(np.count_nonzero(nonzero > n))


def check_sparsity(model: ir.Model, layers: Iterable[Layer], n: int = 2, m: int = 4) -> dict[str, int]:
    """Violating groups per layer, for each layer of `layers` that the file holds.

    Raises SparsityCheckError where a layer marked sparse violates the pattern or cannot be found in the file.
    """
    counts: dict[str, int] = {}
    for weight in stored_weights(model):
        counts[weight.layer] = counts.get(weight.layer, 0) + violations_nm(weight.matrix, n, m)
    marked = [layer.name for layer in layers if layer.sparse]
    missing = [name for name in marked if name not in counts]
    if missing:
        raise SparsityCheckError(
            f"every sparse layer must be a MatMul, Gemm or Conv with a stored weight in the ONNX file: {_few(missing)}",
            got="no such node",
            do="mark the layer dense, or keep its weight free of operations before the product",
        )
    broken = [f"{name} ({counts[name]} groups)" for name in marked if counts[name]]
    if broken:
        raise SparsityCheckError(
            f"{n}:{m} along the reduction must hold in the ONNX file",
            got=f"violations in {_few(broken)}",
            do="prune again; a graph rewrite or a quantizer has changed the pattern",
        )
    return {layer.name: counts[layer.name] for layer in layers if layer.name in counts}


def _few(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
