"""Which GEMMs an ONNX node multiplies: MatMul, Gemm, Conv, Einsum, their integer forms, and attention operators."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpusq.errors import UnsupportedModelError
from gpusq.latency.onnx_tensors import Graph, Tensor

if TYPE_CHECKING:
    import onnx

RIGHT_OPERAND = {"QLinearMatMul": 3, "QLinearConv": 3}


@dataclass(frozen=True)
class Product:
    """[rows, k] x [k, n], `count` times, for the whole batch of the file.

    left, right: the operands, the weight on the right. weight: name of the constant operand, "" for a product of
    activations; weight_axis: its axis along the reduction. conv: a convolution as an implicit GEMM.
    """

    left: str
    right: str
    rows: int
    n: int
    k: int
    count: int
    weight: str = ""
    weight_axis: int = 0
    conv: bool = False

    def per_image(self, images: int) -> tuple[int, int, int, int]:
        """(m, n, k, count) for one image: rows are shared out, of products of activations the repeats."""
        if self.weight or self.count % images:
            return -(-self.rows // images), self.n, self.k, self.count
        return self.rows, self.n, self.k, self.count // images


def product_of(graph: Graph, node: onnx.NodeProto) -> Product | None:
    """The product of a node, or None where it is none after all (an Einsum that only moves elements)."""
    if node.op_type == "Einsum":
        return _einsum(graph, node)
    left, right = node.input[0], node.input[RIGHT_OPERAND.get(node.op_type, 1)]
    if "Conv" in node.op_type:
        return _convolution(graph, node, left, right)
    flags = attributes(node)
    turned = (flags.get("transA", 0), flags.get("transB", 0))
    return _matmul(graph, left, right, graph.tensors[node.output[0]], turned)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Attribute values by name."""
    from onnx import helper

    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _matmul(graph: Graph, left: str, right: str, out: Tensor, turned: tuple[int, int]) -> Product:
    a, b = graph.tensors[left], graph.tensors[right]
    rows, k = _matrix(a.shape, turned[0], last=True)
    _, n = _matrix(b.shape, turned[1], last=False)
    if not b.live:
        count = math.prod(b.shape[:-2])
        axis = (len(b.shape) - (1 if turned[1] else 2)) if len(b.shape) > 1 else 0
        return Product(left, right, _share(out.size, n * count), n, k, count, right, axis)
    if not a.live:  # [rows, k] weights on the left: the same product turned over
        count = math.prod(a.shape[:-2])
        axis = len(a.shape) - (2 if turned[0] else 1)
        return Product(right, left, _share(out.size, rows * count), rows, k, count, left, axis)
    return Product(left, right, rows, n, k, _share(out.size, rows * n))


def _matrix(shape: tuple[int, ...], turned: int, *, last: bool) -> tuple[int, int]:
    """The last two dimensions as multiplied; a vector is a row on the left and a column on the right."""
    if len(shape) == 1:
        return (1, shape[0]) if last else (shape[0], 1)
    return (shape[-1], shape[-2]) if turned else (shape[-2], shape[-1])


def _share(size: int, by: int) -> int:
    return size // by if by else 0


def _convolution(graph: Graph, node: onnx.NodeProto, left: str, right: str) -> Product:
    """A convolution as `groups` products [places, k] x [k, out / groups]; its weight is 2:4 along input channels."""
    x, w, out = graph.tensors[left], graph.tensors[right], graph.tensors[node.output[0]]
    groups, taps = int(attributes(node).get("group", 1)), math.prod(w.shape[2:])
    weight = "" if w.live else right
    if node.op_type == "ConvTranspose":  # w [C, out / groups, taps]
        places = x.shape[0] * math.prod(x.shape[2:])
        return Product(left, right, places, w.shape[1] * taps, w.shape[0] // groups, groups, weight, 0, conv=True)
    places = out.shape[0] * math.prod(out.shape[2:])
    return Product(left, right, places, w.shape[0] // groups, w.shape[1] * taps, groups, weight, 1, conv=True)


def _einsum(graph: Graph, node: onnx.NodeProto) -> Product | None:
    """Labels in both operands and the output count; in both only: the reduction; in one: rows or columns."""
    equation = attributes(node)["equation"].decode().replace(" ", "")
    if len(node.input) != len("ab") or "." in equation:
        return None
    inputs, _, output = equation.partition("->")
    terms = inputs.split(",")
    names = list(node.input)
    if not graph.tensors[names[0]].live:
        names, terms = names[::-1], terms[::-1]
    left, right = names
    sizes = {
        label: size
        for name, term in zip(names, terms, strict=True)
        for label, size in zip(term, graph.tensors[name].shape, strict=True)
    }
    both = set(terms[0]) & set(terms[1])
    output = output or "".join(sorted(label for label in sizes if label not in both))
    reduced = [label for label in terms[1] if label in both and label not in output]
    if not reduced:
        return None
    sides = [[label for label in term if label not in both and label in output] for term in terms]
    rows, n = (math.prod(sizes[label] for label in side) for side in sides)
    k = math.prod(sizes[label] for label in reduced)
    count = math.prod(sizes[label] for label in both if label in output)
    weight = "" if graph.tensors[right].live else right
    return Product(left, right, rows, n, k, count, weight, terms[1].index(reduced[-1]))


def attention_of(graph: Graph, node: onnx.NodeProto) -> list[Product]:
    """The products of an attention operator, q k^T and p v last; [] where its operands are not understood.

    Standard Attention: q, k, v [B, H, L, D], or [B, L, H * D] with the heads as attributes. com.microsoft: Attention
    with packed weights [W, 3 W], MultiHeadAttention with q, k, v [B, L, W].
    """
    given = attributes(node)
    query = graph.tensors[node.input[0]]
    if node.domain == "com.microsoft" and node.op_type == "Attention":
        return _packed_attention(graph, node, int(given["num_heads"]))
    if len(node.input) < len("qkv") or not all(node.input[:3]):
        return []
    q, k, v = (graph.tensors[name].shape for name in node.input[:3])
    heads = int(given.get("q_num_heads", given.get("num_heads", 0)))
    if len(q) == len("bhld"):
        sizes = (q[0] * q[1], q[2], k[2], q[3], v[3])
    elif len(q) == len(k) == len(v) == len("blw") and heads:
        shared = int(given.get("kv_num_heads", heads))
        sizes = (q[0] * heads, q[1], k[1], q[2] // heads, v[2] // shared)
    else:
        raise UnsupportedModelError(
            f"attention {node.name} must have operands [B, heads, L, D] or [B, L, W] and a number of heads",
            got=f"{query.shape}, heads {heads or 'not given'}",
            do="export attention as matmul, softmax, matmul",
        )
    count, rows, columns, depth, width = sizes
    return [
        Product(node.input[0], node.input[1], rows, columns, depth, count),
        Product(node.input[0], node.input[2], rows, width, columns, count),
    ]


def _packed_attention(graph: Graph, node: onnx.NodeProto, heads: int) -> list[Product]:
    x, weight = graph.tensors[node.input[0]], graph.tensors[node.input[1]]
    width = weight.shape[1] // len("qkv")
    batch, tokens = x.shape[0], x.shape[1]
    depth, source = width // heads, node.input[0]
    return [
        Product(source, node.input[1], batch * tokens, weight.shape[1], x.shape[-1], 1, node.input[1], 0),
        Product(source, source, tokens, tokens, depth, batch * heads),
        Product(source, source, tokens, depth, tokens, batch * heads),
    ]
