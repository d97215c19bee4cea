"""Walks an ONNX graph and collects its operators and the form of its layers."""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpusq.latency.onnx_operators import ATTENTIONS, MEMORY, PRODUCTS, STANDARD_DOMAINS, VIEWS, spelled
from gpusq.latency.onnx_patterns import absorbed_by_groups
from gpusq.latency.onnx_products import Product, attention_of, product_of
from gpusq.latency.onnx_tensors import Graph
from gpusq.latency.onnx_weights import is_two_four, operand_type, stored, why_float
from gpusq.workload import Layer, Op

if TYPE_CHECKING:
    import onnx

FLOATS = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16"}
OWN_KERNELS = ("norm", "pool", "mean", "cat", "pad", "roll", "upsample", "grid_sampler", "topk")
SCOPES = "pkg.torch.onnx.name_scopes"  # where torch's exporter notes the modules above a node


@dataclass
class Reader:
    """Walks the graph in order and collects operators. group: the kernel in which a tensor was written last."""

    graph: Graph
    ops: list[Op] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    float_macs: Counter[str] = field(default_factory=Counter)
    products_int8: list[bool] = field(default_factory=list)
    group: dict[str, int] = field(default_factory=dict)
    kernel: int = 0
    fp8: int = 0

    def __post_init__(self) -> None:
        self.names: Counter[str] = Counter()
        self.absorbed = absorbed_by_groups(self.graph)

    def visit(self, node: onnx.NodeProto) -> None:
        """Count one node."""
        live = self.graph.live_inputs(node)
        if not live or id(node) in self.absorbed:
            return
        known = node.domain in STANDARD_DOMAINS
        if known and node.op_type in ATTENTIONS and self._attention(node):
            return
        product = product_of(self.graph, node) if known and node.op_type in PRODUCTS else None
        if product is not None:
            self._product(node, product)
        elif known and (node.op_type in VIEWS or self._selects(node)):
            if node.op_type == "Transpose" and not self.ops:
                self._add(node, "clone", self.graph.tensors[live[0]].size)  # nothing before it to write so at once
            self._carry(node, self.group.get(live[0], -1))
        else:
            if not known or node.op_type not in MEMORY:
                self.unknown[node.op_type if known else f"{node.domain}::{node.op_type}"] += 1
            self._memory(node, live)

    def notes(self) -> tuple[str, ...]:
        """What a reader should know beside the unknown operators."""
        found = []
        if self.fp8:
            found.append(f"{self.fp8} FP8 layers: counted at the rate of INT8")
        if self.graph.guessed:
            found.append(f"{len(self.graph.guessed)} tensors of unknown operators: taken as large as their input")
        if self.graph.images > 1:
            found.append(f"the file fixes a batch of {self.graph.images}: other batches are scaled from it")
        return tuple(found)

    def _carry(self, node: onnx.NodeProto, group: int) -> None:
        for name in filter(None, node.output):
            self.group[name] = group

    def _selects(self, node: onnx.NodeProto) -> bool:
        """Whether a Gather takes constant places of an activation: a view, not a pass over memory."""
        tensors = self.graph.tensors
        return node.op_type == "Gather" and tensors[node.input[1]].value is not None and tensors[node.input[0]].live

    # ---- products ----

    def _product(self, node: onnx.NodeProto, product: Product) -> None:
        left, right = (operand_type(self.graph, name) for name in (product.left, product.right))
        reason = why_float(left, right)
        name = self._layer_name(node, product) if product.weight else f"{_path(node)}/{spelled(node.op_type)}"
        per_image = product.per_image(self.graph.images)
        op = Op(self._unique(name), "gemm" if product.weight else "bmm", *per_image, *self._traffic(node, product))
        self.ops.append(op)
        if reason:
            self.float_macs[self._float_type(product)] += op.macs
        if product.weight:
            self.layers.append(self._layer(op, product, reason))
            self.fp8 += right == "fp8" and not reason
        else:
            self.products_int8.append(not reason)
        self.kernel += 1
        self._carry(node, self.kernel)

    def _traffic(self, node: onnx.NodeProto, product: Product) -> tuple[int, int]:
        tensors = self.graph.tensors
        read = sum(tensors[name].size for name in (product.left, product.right) if tensors[name].live)
        return self._each(read), self._each(tensors[node.output[0]].size)

    def _layer(self, op: Op, product: Product, reason: str) -> Layer:
        sparse = is_two_four(self.graph, product.weight, product.weight_axis)
        return Layer(
            op.name,
            "conv" if product.conv else "linear",
            op.n * op.count,
            op.k,
            op.count if product.conv else 1,
            sparse=sparse,
            int8=not reason,
            why_dense="" if sparse else "the weight in the file is not 2:4",
            why_float=reason,
        )

    def _float_type(self, product: Product) -> str:
        import onnx

        names = [self.graph.tensors[name].dtype for name in (product.left, product.right)]
        found = (FLOATS.get(onnx.TensorProto.DataType.Name(dtype)) for dtype in names)
        return next((name for name in found if name), "fp32")

    def _attention(self, node: onnx.NodeProto) -> bool:
        """An attention operator as its products and the softmax between them; False where it is not understood."""
        products = attention_of(self.graph, node)
        for index, product in enumerate(products):
            if index == len(products) - 1:
                self._add(node, "softmax", product.rows * product.k * product.count, alone=False)
            self._product(node, product)
        return bool(products)

    # ---- operators bound by memory ----

    def _memory(self, node: onnx.NodeProto, live: list[str]) -> None:
        tensors = self.graph.tensors
        written = max((tensors[name].size for name in node.output if name), default=0)
        name = spelled(node.op_type)
        if id(node) in self.absorbed.heads:
            name, read = self.absorbed.heads[id(node)], written
        elif node.op_type in ("Gather", "GatherND", "GatherElements"):
            read = written
        else:
            read = self._read(live)
        self._add(node, name, written, read)
        self._carry(node, self.kernel)

    def _add(self, node: onnx.NodeProto, name: str, written: int, read: int | None = None, alone: bool = True) -> None:
        read = written if read is None else read
        self.kernel += alone and any(word in name for word in OWN_KERNELS)
        full = self._unique(f"{_path(node)}/{name}")
        self.ops.append(Op(full, "memory", read=self._each(read), write=self._each(written)))

    def _read(self, live: list[str]) -> int:
        """Elements read: what the same kernel has just written is at hand, and counts once."""
        tensors = self.graph.tensors
        distinct = dict.fromkeys(live)
        inside = [tensors[name].size for name in distinct if self.group.get(name) == self.kernel]
        return sum(tensors[n].size for n in distinct if self.group.get(n) != self.kernel) + max(inside, default=0)

    def _each(self, elements: int) -> int:
        return -(-elements // self.graph.images)

    # ---- names ----

    def _layer_name(self, node: onnx.NodeProto, product: Product) -> str:
        """The module's path from the node's name, else from the weight's, else the node's name itself."""
        path = _path(node)
        weight = stored(self.graph, product.weight)
        owner = weight.tensor.rpartition(".")[0] if weight else ""
        return path or owner or node.name or spelled(node.op_type)

    def _unique(self, name: str) -> str:
        self.names[name] += 1
        return name if self.names[name] == 1 else f"{name}_{self.names[name] - 1}"


def _path(node: onnx.NodeProto) -> str:
    """Module path of a node: "/vit/layer.0/query/MatMul" and "vit.layer.0.query/MatMul" give the same.

    Where the name has no path, torch's own note of the modules; "" where there is none.
    """
    name: str = node.name
    return name.strip("/").rpartition("/")[0].replace("/", ".") or _noted_path(node)


def _noted_path(node: onnx.NodeProto) -> str:
    noted = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "[]")
    try:
        scopes = ast.literal_eval(noted)
    except (ValueError, SyntaxError):
        return ""
    return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""
