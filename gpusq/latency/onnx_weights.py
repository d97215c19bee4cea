"""The form of a product in a file: INT8 by its Q/DQ nodes, 2:4 by the bytes of its weight along the reduction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpusq.latency.onnx_tensors import Graph

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

KEEPS_AXES = ("Identity", "Cast", "QuantizeLinear", "DequantizeLinear")
SEEN_THROUGH = ("Transpose", "Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze")
QUANTIZED = {"INT8": "int8", "UINT8": "int8", "FLOAT8E4M3FN": "fp8", "INT4": "int4", "UINT4": "int4"}
WEIGHT_TYPES = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", *QUANTIZED)
FEW_ROWS = 256  # a dense weight shows itself in the first of them


@dataclass(frozen=True)
class Stored:
    """An initializer behind an operand, and the axes that the graph's transposes give it.

    axes[i] is the axis of the stored array that axis i of the operand is; None where a reshape mixed them.
    """

    tensor: str
    axes: tuple[int, ...] | None


def stored(graph: Graph, name: str) -> Stored | None:
    """The initializer that an operand holds, seen through Q/DQ, casts and transposes; None for anything computed."""
    if name in graph.initializers:
        return Stored(name, tuple(range(len(graph.tensors[name].shape))))
    node = graph.producer.get(name)
    if node is None or node.op_type not in (*SEEN_THROUGH, "QuantizeLinear", "DequantizeLinear"):
        return None
    inner = stored(graph, node.input[0])
    if inner is None or inner.axes is None or node.op_type in KEEPS_AXES:
        return inner
    if node.op_type != "Transpose":
        return Stored(inner.tensor, None)
    given = next((tuple(a.ints) for a in node.attribute if a.name == "perm"), tuple(range(len(inner.axes)))[::-1])
    return Stored(inner.tensor, tuple(inner.axes[axis] for axis in given))


def operand_type(graph: Graph, name: str) -> str:
    """int8, fp8 or int4 where the operand comes out of a DequantizeLinear or is such numbers itself; else empty."""
    import onnx

    own = QUANTIZED.get(onnx.TensorProto.DataType.Name(graph.tensors[name].dtype), "")
    node = graph.producer.get(name)
    if own or node is None:
        return own
    if node.op_type == "DequantizeLinear":
        return QUANTIZED.get(onnx.TensorProto.DataType.Name(graph.tensors[node.input[0]].dtype), "")
    return operand_type(graph, node.input[0]) if node.op_type in SEEN_THROUGH else ""


def why_float(left: str, right: str) -> str:
    """Why a product of operands of these types is not INT8; "" where it is."""
    if left == right and left in ("int8", "fp8"):
        return ""
    if not left and not right:
        return "no Q/DQ in the file"
    if "int4" in (left, right):
        return "INT4 weights are multiplied in float"
    return "only one operand has Q/DQ: multiplied in float"


def is_two_four(graph: Graph, name: str, axis: int) -> bool:
    """Whether at most two of each four neighbours along `axis` of an operand's weight differ from zero."""
    found = stored(graph, name)
    if found is None or found.axes is None:
        return False
    from onnx import numpy_helper

    tensor = graph.initializers[found.tensor]
    along = found.axes[axis]
    if tensor.dims[along] % 4 or not all(tensor.dims):
        return False
    return fits_two_four(numpy_helper.to_array(tensor), along)


def fits_two_four(array: NDArray[Any], axis: int) -> bool:
    """2:4 along one axis of an array whose size there is a multiple of 4; zeros are counted, not scales."""
    moved = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    return _holds(moved[:, :FEW_ROWS]) and _holds(moved)


def _holds(moved: NDArray[Any]) -> bool:
    kept = np.zeros((len(moved) // 4, moved.shape[1]), dtype=np.uint8)
    for place in range(4):
        kept += moved[place::4] != 0
    return bool((kept <= 2).all())


def parameters(graph: Graph) -> int:
    """Elements of all weights: initializers of a number type that are no scale, zero point or shape."""
    import onnx

    beside = {name for node in graph.nodes for name in _scales(node)}
    return sum(
        graph.tensors[name].size
        for name, tensor in graph.initializers.items()
        if name not in beside and onnx.TensorProto.DataType.Name(tensor.data_type) in WEIGHT_TYPES
    )


def _scales(node: onnx.NodeProto) -> list[str]:
    return list(node.input[1:3]) if node.op_type in ("QuantizeLinear", "DequantizeLinear") else []
