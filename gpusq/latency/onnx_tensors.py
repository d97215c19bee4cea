"""Shape, type and origin of every tensor of an ONNX graph, in one pass and without any large constant.

Shapes come from ONNX's own inference, node by node; small constants (what reshapes are computed from) are evaluated on
the way. Nothing here runs the model, and torch is not needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gpusq.errors import UnsupportedModelError
from gpusq.latency.onnx_inputs import input_shapes

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

SMALL = 4096
"""Constants of at most so many elements are kept as values; larger ones are known by shape only."""
SHAPE_ONLY = ("Shape", "Size")


@dataclass(frozen=True)
class Tensor:
    """shape: all dimensions known. dtype: ONNX element type. live: depends on what the inputs hold.

    value: of a small constant. weight: name of the initializer it is, "" for anything computed.
    """

    shape: tuple[int, ...]
    dtype: int
    live: bool
    value: NDArray[Any] | None = None
    weight: str = ""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass
class Graph:
    """A graph with the facts about its tensors. images: items in the batch that the shapes were computed for."""

    nodes: Sequence[onnx.NodeProto]
    tensors: dict[str, Tensor]
    producer: dict[str, onnx.NodeProto]
    initializers: dict[str, onnx.TensorProto]
    consumers: dict[str, list[onnx.NodeProto]]
    inputs: tuple[str, ...]
    images: int
    guessed: set[str] = field(default_factory=set)

    def inputs_of(self, node: onnx.NodeProto) -> list[Tensor]:
        """The tensors that a node reads, absent ones left out."""
        return [self.tensors[name] for name in node.input if name]

    def live_inputs(self, node: onnx.NodeProto) -> list[str]:
        """Names of the inputs that depend on the images."""
        return [name for name in node.input if name and self.tensors[name].live]


def read_graph(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Graph:
    """Facts about every tensor of `model`.

    shapes: input name to its whole shape, where the file leaves more than the batch open. An open first dimension
    (and what has its name) becomes 1. Raises UsageError naming an input whose shape is open elsewhere,
    UnsupportedModelError for a node whose shape cannot be told.
    """
    model = _inlined(model)
    proto = model.graph
    initializers = {tensor.name: tensor for tensor in proto.initializer}
    tensors = {name: _constant(tensor) for name, tensor in initializers.items()}
    inputs = [value for value in proto.input if value.name not in initializers]
    found = input_shapes(inputs, dict(shapes or {}))
    for value in inputs:
        tensors[value.name] = Tensor(found[value.name], value.type.tensor_type.elem_type, True)
    graph = Graph(
        nodes=proto.node,
        tensors=tensors,
        producer={name: node for node in proto.node for name in node.output if name},
        initializers=initializers,
        consumers=_consumers(proto.node),
        inputs=tuple(value.name for value in inputs),
        images=next((shape[0] for shape in found.values() if shape), 1),
    )
    inference = _Inference(model, graph)
    for node in proto.node:
        inference.visit(node)
    return graph


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """Functions that the file itself defines, put in place of their calls."""
    if not model.functions:
        return model
    import onnx.inliner

    inlined: onnx.ModelProto = onnx.inliner.inline_local_functions(model)
    return inlined


def _consumers(nodes: Sequence[onnx.NodeProto]) -> dict[str, list[onnx.NodeProto]]:
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def _constant(tensor: onnx.TensorProto) -> Tensor:
    from onnx import numpy_helper

    shape = tuple(tensor.dims)
    value = numpy_helper.to_array(tensor) if math.prod(shape) <= SMALL else None
    return Tensor(shape, tensor.data_type, False, value, tensor.name)


class _Inference:
    """Visits nodes in order and adds what they write to `graph.tensors`."""

    def __init__(self, model: onnx.ModelProto, graph: Graph) -> None:
        self.graph = graph
        self.opsets = list(model.opset_import)
        self.versions = {entry.domain or "": entry.version for entry in model.opset_import}
        self.ir_version = model.ir_version
        self.declared = {value.name: value for value in [*model.graph.value_info, *model.graph.output]}

    def visit(self, node: onnx.NodeProto) -> None:
        """Add the facts about the outputs of one node."""
        tensors = self.graph.tensors
        missing = [name for name in node.input if name and name not in tensors]
        if missing:
            raise UnsupportedModelError(
                f"node {node.name or node.op_type} reads a tensor that an earlier node writes",
                got=f"{missing[0]}, which nothing before it writes",
                do="sort the graph, or export it again",
            )
        inputs = self.graph.inputs_of(node)
        live = any(t.live for t in inputs) and node.op_type not in SHAPE_ONLY
        found = self._shapes(node, inputs)
        values = self._values(node, inputs, found)
        for name in filter(None, node.output):
            shape, dtype = found.get(name) or self._fallback(node, name, inputs, values)
            tensors[name] = Tensor(shape, dtype, live, values.get(name))

    def _shapes(self, node: onnx.NodeProto, inputs: list[Tensor]) -> dict[str, tuple[tuple[int, ...], int]]:
        """Outputs whose whole shape ONNX's inference gives."""
        import onnx

        try:
            schema = onnx.defs.get_schema(node.op_type, self.versions.get(node.domain, 1), node.domain)
        except onnx.defs.SchemaError:
            return {}
        named = [(name, self.graph.tensors[name]) for name in node.input if name]
        types = {name: onnx.helper.make_tensor_type_proto(t.dtype, t.shape) for name, t in named}
        data = {
            name: onnx.numpy_helper.from_array(np.ascontiguousarray(t.value), name)
            for name, t in named
            if t.value is not None
        }
        try:
            result = onnx.shape_inference.infer_node_outputs(
                schema, node, types, data, opset_imports=self.opsets, ir_version=self.ir_version
            )
        except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
            return {}
        found = {name: _whole(kind) for name, kind in result.items()}
        return {name: known for name, known in found.items() if known is not None}

    def _values(
        self, node: onnx.NodeProto, inputs: list[Tensor], found: Mapping[str, tuple[tuple[int, ...], int]]
    ) -> dict[str, NDArray[Any]]:
        """Small constants that this node computes from small constants or from shapes."""
        if node.op_type == "Shape" and not node.domain:
            return {node.output[0]: _shape_value(node, inputs[0])}
        small = all(math.prod(shape) <= SMALL for shape, _ in found.values())
        if not small or any(t.value is None for t in inputs) or _draws(node):
            return {}
        return {name: np.asarray(value) for name, value in self._evaluate(node)}

    def _evaluate(self, node: onnx.NodeProto) -> Iterator[tuple[str, Any]]:
        import onnx
        from onnx.reference import ReferenceEvaluator

        names = [name for name in dict.fromkeys(node.input) if name]
        made = onnx.helper.make_graph(
            [node],
            "one",
            [onnx.helper.make_tensor_value_info(n, self.graph.tensors[n].dtype, None) for n in names],
            [onnx.helper.make_tensor_value_info(n, 0, None) for n in node.output if n],
        )
        model = onnx.helper.make_model(made, opset_imports=self.opsets, ir_version=self.ir_version)
        feeds = {name: self.graph.tensors[name].value for name in names}
        try:
            return zip([n for n in node.output if n], ReferenceEvaluator(model).run(None, feeds), strict=True)
        except Exception:  # noqa: BLE001  (an operator that the reference lacks stays a tensor known by its shape)
            return iter(())

    def _fallback(
        self, node: onnx.NodeProto, name: str, inputs: list[Tensor], values: Mapping[str, NDArray[Any]]
    ) -> tuple[tuple[int, ...], int]:
        """Facts that inference does not give: of an evaluated constant, as declared in the file, else as the input."""
        import onnx

        if name in values:
            value = values[name]
            return value.shape, onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        declared = _whole(self.declared[name].type, self.graph) if name in self.declared else None
        if declared is not None:
            return declared
        standard = node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type)
        if standard or not inputs:
            raise UnsupportedModelError(
                f"the shape of {name} must follow from the shapes of the inputs",
                got=f"{node.op_type} node {node.name or '(no name)'} gives a shape that depends on data",
                do="simplify the graph (for example with onnxsim), or export it with fixed shapes",
            )
        self.graph.guessed.add(name)
        first = next((t for t in inputs if t.live), inputs[0])
        return first.shape, first.dtype


def _whole(kind: onnx.TypeProto, graph: Graph | None = None) -> tuple[tuple[int, ...], int] | None:
    """(shape, element type) where every dimension is a number; with `graph`, an open first one is its batch."""
    tensor = kind.tensor_type
    if not tensor.HasField("shape"):
        return None
    dims = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
    if graph is not None and dims and dims[0] < 0:
        dims[0] = graph.images
    return (tuple(dims), tensor.elem_type) if min(dims, default=0) >= 0 else None


def _shape_value(node: onnx.NodeProto, source: Tensor) -> NDArray[np.int64]:
    bounds = {a.name: a.i for a in node.attribute}
    return np.array(source.shape[bounds.get("start", 0) : bounds.get("end")], dtype=np.int64)


def _draws(node: onnx.NodeProto) -> bool:
    return node.op_type.startswith("Random") or any(a.HasField("g") for a in node.attribute)
