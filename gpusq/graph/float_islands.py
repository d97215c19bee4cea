"""Which nodes of a model stay in float32 when the rest becomes FP16: the arithmetic of places, boxes and selections.

FP16 holds 11 bits: a place on a map of 2,048 columns, or a box edge in a wide image, loses its fraction, and an index
computed in it points elsewhere; scores that select queries become equal. These paths are a few thousand numbers each;
in float32 they cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

_ELEMENTWISE = """
    Abs Add Ceil Clip Cos Div Exp Floor Log Max Min Mod Mul Neg Pow Reciprocal Round Sigmoid Sign Sin Sqrt Sub Where
"""
_MOVING = """
    Concat ConstantOfShape Expand Flatten Gather GatherElements GatherND Identity Range Reshape ScatterElements
    ScatterND Slice Split Squeeze Tile Transpose Unsqueeze CumSum ReduceMax TopK
"""
CARRIERS = frozenset((_ELEMENTWISE + _MOVING).split())
"""Operators through which a path is followed; products, norms, softmax and activations end it."""
ANGLES = ("Sin", "Cos")
PRODUCTS = ("MatMul", "Gemm")
INTEGERS = frozenset(("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"))


def float32_nodes(graph: ir.Graph, outputs: Iterable[str] = ()) -> set[ir.Node]:
    """Nodes that compute in float32: what becomes an index or an angle, what `outputs` are made of, and their kin.

    Followed backwards, through elementwise and moving operators, from every cast to integers, every sine and cosine,
    every sampling grid and every graph output named in `outputs`; from every top-k also through the product with a
    float weight that gives the scores; then forwards, to nodes whose every float input is such a value or a constant
    (the fractions that belong to the indices).
    """
    found = _followed(_seeds(graph, set(outputs)))
    for node in graph:
        if node.op_type == "TopK" and _is_float(node.inputs[0]):
            found |= {node} | _followed([node.inputs[0]], through_product=True)
    for node in graph:  # in order, so that one pass is enough
        if node not in found and _carries(node) and _fed_by(node, found):
            found.add(node)
    return found


def _followed(seeds: Iterable[ir.Value | None], *, through_product: bool = False) -> set[ir.Node]:
    """The nodes behind `seeds`, up to products (with `through_product` the first product, too), norms and the like."""
    found: set[ir.Node] = set()
    waiting = [value for value in seeds if value is not None]
    while waiting:
        node = waiting.pop().producer()
        if node is None or node in found:
            continue
        if _carries(node):
            found.add(node)
            waiting += [value for value in node.inputs if value is not None]
        elif through_product and _float_product(node):
            found.add(node)
    return found


def _float_product(node: ir.Node) -> bool:
    """Whether a node multiplies an activation with a weight that is stored in floating point."""
    weight = node.inputs[1] if node.op_type in PRODUCTS and not node.domain else None
    return weight is not None and weight.const_value is not None and _is_float(weight)


def _seeds(graph: ir.Graph, outputs: set[str]) -> Iterator[ir.Value | None]:
    for node in graph:
        if node.op_type in ANGLES or (node.op_type == "Cast" and _to_integer(node)):
            yield node.inputs[0]
        elif node.op_type == "GridSample":
            yield node.inputs[1]
    for value in graph.outputs:
        if value.name in outputs:
            yield value


def _to_integer(node: ir.Node) -> bool:
    dtype = node.outputs[0].dtype
    return dtype is not None and dtype.name in INTEGERS


def _carries(node: ir.Node) -> bool:
    if node.domain or not _is_float(node.outputs[0]):
        return False
    return node.op_type in CARRIERS or (node.op_type == "Cast" and not _is_float(node.inputs[0]))


def _fed_by(node: ir.Node, found: set[ir.Node]) -> bool:
    """Whether every float input is a value of `found` or a constant, and at least one is a value."""
    floats = [value for value in node.inputs if value is not None and _is_float(value)]
    computed = [value.producer() for value in floats if value.const_value is None]
    return bool(computed) and all(producer in found for producer in computed)


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype is not None and value.dtype.name == "FLOAT"
