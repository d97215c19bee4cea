"""Where a file keeps the weights of its GEMMs: found behind DequantizeLinear, QuantizeLinear and Transpose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpusq.graph.naming import layer_of

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

GEMM_OPS = ("MatMul", "Gemm", "Conv")


@dataclass(frozen=True)
class StoredWeight:
    """The weight of one MatMul, Gemm or Conv as the builder will read it.

    node, layer: its node and the module path in the node's name. tensor: name of the initializer.
    matrix: [out, k], k along the GEMM's reduction; of a convolution [out * kh * kw, in / groups], since the n:m groups
    run along input channels. Integers where the file stores integers (`int8`); the scale does not matter for zeros.
    """

    node: str
    layer: str
    tensor: str
    matrix: NDArray[Any]
    int8: bool


def stored_weights(model: ir.Model) -> Iterator[StoredWeight]:
    """Every GEMM weight in graph order. Products of two activations have none and are left out."""
    for node in model.graph:
        if node.domain == "" and node.op_type in GEMM_OPS:
            for position in (1, 0):
                found = _resolve(node.inputs[position])
                if found is not None and found[1].ndim >= 2:
                    tensor, array = found
                    matrix = _gemm_matrix(node, position, array)
                    yield StoredWeight(
                        node.name or "", layer_of(node.name or ""), tensor, matrix, array.dtype == np.int8
                    )
                    break


def _resolve(value: ir.Value | None) -> tuple[str, NDArray[Any]] | None:
    """Name and array of the initializer behind a GEMM input, transposed as the graph does; None for activations."""
    if value is None:
        return None
    if value.const_value is not None and value.producer() is None:
        return value.name or "", value.const_value.numpy()
    node = value.producer()
    if node is None or node.op_type not in ("DequantizeLinear", "QuantizeLinear", "Transpose", "Identity", "Cast"):
        return None
    inner = _resolve(node.inputs[0])
    if inner is None or node.op_type != "Transpose":
        return inner
    perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else None
    return inner[0], inner[1].transpose(perm)


def _gemm_matrix(node: ir.Node, position: int, array: NDArray[Any]) -> NDArray[Any]:
    """Move the reduction to the last axis and flatten the others."""
    if node.op_type == "Conv":  # [O, I/g, kh, kw] -> [O, kh, kw, I/g]
        array = np.moveaxis(array, 1, -1)
    elif node.op_type == "Gemm":
        flag = node.attributes.get("transB" if position == 1 else "transA")
        transposed = bool(flag.as_int()) if flag is not None else False
        if transposed != (position == 1):  # B [K, N] or A^T [K, M]
            array = array.T
    elif position == 1:  # MatMul B [..., K, N]
        array = np.swapaxes(array, -1, -2)
    return array.reshape(-1, array.shape[-1])
