"""Groups of ONNX nodes that stand for one kernel: a LayerNormalization in small steps, a roll as slices joined anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpusq.latency.onnx_tensors import Graph

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Absorbed:
    """Nodes (by identity) that cost nothing of their own, and the heads that stand for their groups, with names."""

    inner: frozenset[int]
    heads: dict[int, str]

    def __contains__(self, node: int) -> bool:
        return node in self.inner


def absorbed_by_groups(graph: Graph) -> Absorbed:
    """The groups of a graph; a group's work is that of the node that ends it."""
    inner: set[int] = set()
    heads: dict[int, str] = {}
    for node in graph.nodes:
        found = _layer_norm(graph, node)
        if found:
            heads[id(found[-1])] = "layer_norm"
            inner |= {id(part) for part in found[:-1]}
        before = _rolled(graph, node)
        if before:
            heads[id(node)] = "roll"
            source = graph.producer.get(before)
            if source is not None and heads.pop(id(source), "") == "roll":  # along two axes: one kernel
                inner.add(id(source))
    return Absorbed(frozenset(inner), heads)


def _rolled(graph: Graph, node: onnx.NodeProto) -> str:
    """The tensor that a Concat of two slices puts together again in another order; "" for anything else."""
    if node.op_type != "Concat" or len(node.input) != 2:
        return ""
    slices = [graph.producer.get(name) for name in node.input]
    sources = {part.input[0] if part is not None and part.op_type == "Slice" else "" for part in slices}
    source = sources.pop() if len(sources) == 1 else ""
    return source if source and graph.tensors[source].shape == graph.tensors[node.output[0]].shape else ""


def _layer_norm(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """[ReduceMean, Sub..., Pow or Mul, ReduceMean, Add, Sqrt, Div] that begins at `node`; [] for anything else."""
    if node.op_type != "ReduceMean" or node.input[0] not in graph.tensors:
        return []
    subs = [n for n in graph.consumers.get(node.output[0], []) if n.op_type == "Sub" and n.input[0] == node.input[0]]
    for sub in subs:
        square = _next(graph, sub, "Pow", "Mul")
        mean = _next(graph, square, "ReduceMean")
        shifted = _next(graph, mean, "Add")
        root = _next(graph, shifted, "Sqrt")
        ends = [n for n in graph.consumers.get(root.output[0], []) if n.op_type == "Div"] if root else []
        if square and mean and shifted and root and ends:
            return [node, *subs, square, mean, shifted, root, ends[0]]
    return []


def _next(graph: Graph, node: onnx.NodeProto | None, *kinds: str) -> onnx.NodeProto | None:
    """The consumer of a node's output that has one of these types."""
    if node is None:
        return None
    return next((n for n in graph.consumers.get(node.output[0], []) if n.op_type in kinds), None)
