"""The strongly typed FP16 form: half inside, float32 for places and boxes and at the border, the same INT8 integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpusq.errors import LintError, NonFiniteError, UnsupportedModelError
from gpusq.graph.float_islands import float32_nodes
from gpusq.graph.naming import UniqueNames
from gpusq.graph.precision import type_problems

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

FP16_MAX = 65504.0
SMALLEST_NORMAL = 2.0**-14
FLUSHED_BELOW = 2.0**-25  # rounds to zero in FP16
KEPT_FLOAT = {("Resize", 2)}  # the operator's definition allows nothing but float32 there
ANY = ("Cast", "Shape", "Size")  # take any type as it comes
GUARDS = ("Add", "Sub", "Max", "Clip")  # where a tiny constant keeps a divisor or a logarithm from zero


def to_fp16(model: ir.Model, *, float32_outputs: Sequence[str] = ("boxes",)) -> ir.Model:
    """A strongly typed FP16 copy of a float32 Q/DQ model; `model` itself is not changed.

    Float tensors become FP16 (weights that are not INT8, scales, constants, casts); INT8 weights keep their integers;
    LayerNormalization keeps float32 inside (stash_type). Places, angles and what the outputs named in `float32_outputs`
    are made of since their last product stay float32 (`float32_nodes`), with casts around them. Inputs and outputs stay
    float32 with at most one Cast each. A guard constant such as `x + 1e-12` is raised to the smallest normal FP16,
    2**-14; minus infinity stays; float32's own largest and smallest number, as masks use them, become those of FP16.
    Raises NonFiniteError naming a tensor that FP16 cannot hold (too large, NaN, a scale or factor that would vanish),
    LintError where types still mix, UnsupportedModelError below opset 19 with Q/DQ.
    """
    import onnx_ir as ir

    converted: ir.Model = ir.from_proto(ir.to_proto(model))
    graph = converted.graph
    if (graph.opset_imports.get("") or 0) < 19 and any(n.op_type == "QuantizeLinear" for n in graph):
        raise UnsupportedModelError("FP16 Q/DQ needs opset 19 or later", do="export with opset 21")
    kept = float32_nodes(graph, float32_outputs)
    _split_kept_float(graph, kept)
    for value in list(graph.initializers.values()):
        _convert_initializer(value)
    for node in graph:
        if node not in kept:
            _convert_node(node)
    _cast_border(graph, kept)
    problems = type_problems(converted)
    if problems:
        raise LintError("the FP16 model must be strongly typed", got="; ".join(problems[:5]))
    return converted


def _stays_float32(node: ir.Node, position: int, kept: set[ir.Node]) -> bool:
    return node in kept or (node.op_type, position) in KEPT_FLOAT


def _split_kept_float(graph: ir.Graph, kept: set[ir.Node]) -> None:
    """Give float32 nodes, and inputs that must be float32, constants of their own, marked so that they are left."""
    import onnx_ir as ir

    for node in graph:
        for position, value in enumerate(node.inputs):
            tensor = None if value is None else value.const_value
            if tensor is None or tensor.dtype != ir.DataType.FLOAT or not _stays_float32(node, position, kept):
                continue
            name, copy = f"{node.name}/float32_{position}", ir.tensor(tensor.numpy())
            own = ir.val(name, dtype=copy.dtype, shape=list(tensor.shape.numpy()), const_value=copy)
            own.meta["keep"] = True
            graph.register_initializer(own)
            node.replace_input_with(position, own)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def _convert_initializer(value: ir.Value) -> None:
    import onnx_ir as ir

    tensor = value.const_value
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or value.meta.get("keep"):
        return
    array = _guarded(value, _as_masked(tensor.numpy()))
    half = to_half(array, value.name or "", is_scale=_is_scale(value))
    value.const_value = ir.tensor(half, name=value.name)
    value.type = ir.TensorType(ir.DataType.FLOAT16)


def _as_masked(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32's own extremes mean "as far as the type goes": they become those of FP16."""
    extreme = np.abs(array) == np.finfo(np.float32).max
    return np.where(extreme, np.copysign(np.float32(FP16_MAX), array), array) if extreme.any() else array


def to_half(array: NDArray[np.float32], name: str, *, is_scale: bool = False) -> NDArray[np.float16]:
    """float32 -> FP16, rounding to nearest. Raises NonFiniteError for what FP16 cannot hold (see `to_fp16`)."""
    finite = array[~np.isneginf(array)]
    if not np.isfinite(finite).all() or (finite.size and float(np.abs(finite).max()) > FP16_MAX):
        worst = float(finite[np.argmax(np.where(np.isfinite(finite), np.abs(finite), np.inf))])
        raise NonFiniteError(
            f"FP16: tensor {name} must lie within +-{FP16_MAX:.0f}",
            got=f"{worst:g}",
            do="keep this model in float32, or rescale the layer",
        )
    if is_scale and float(array.min()) < SMALLEST_NORMAL:
        raise NonFiniteError(
            f"FP16: quantization scale {name} must be at least 2**-14",
            got=f"{float(array.min()):g}",
            do="seal the scales before the export",
        )
    return array.astype(np.float16)


def _is_scale(value: ir.Value) -> bool:
    return any(u.node.op_type in ("QuantizeLinear", "DequantizeLinear") and u.idx == 1 for u in value.uses())


def _guarded(value: ir.Value, array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Raise a tiny scalar guard to 2**-14; refuse a tiny scalar factor, which FP16 would turn into zero."""
    if array.size != 1 or _is_scale(value):
        return array
    scalar = float(array.reshape(()))
    consumers = {use.node.op_type for use in value.uses()}
    if 0 < abs(scalar) < SMALLEST_NORMAL and consumers and consumers <= set(GUARDS):
        return np.full_like(array, np.copysign(SMALLEST_NORMAL, scalar))
    if 0 < abs(scalar) < FLUSHED_BELOW:
        raise NonFiniteError(
            f"FP16: constant {value.name} used by {sorted(consumers)} would become zero",
            got=f"{scalar:g}",
            do="keep this model in float32, or rescale the expression",
        )
    return array


def _convert_node(node: ir.Node) -> None:
    import onnx_ir as ir

    float32, float16 = ir.DataType.FLOAT, ir.DataType.FLOAT16
    for key in ("to", "dtype", "output_dtype"):
        attribute = node.attributes.get(key)
        if attribute is not None and attribute.as_int() == float32:
            node.attributes[key] = ir.AttrInt64(key, int(float16))
    fill = node.attributes.get("value")
    if node.op_type == "ConstantOfShape" and fill is not None and fill.as_tensor().dtype == float32:
        half = to_half(fill.as_tensor().numpy(), node.name or "")
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(half))
    for output in node.outputs:
        if output.dtype == float32:
            output.type = ir.TensorType(float16)


def _cast(name: str, source: ir.Value, dtype: ir.DataType) -> ir.Node:
    import onnx_ir as ir

    node = ir.Node("", "Cast", [source], {"to": ir.AttrInt64("to", int(dtype))}, name=name)
    node.outputs[0].name, node.outputs[0].shape = name, source.shape
    node.outputs[0].type = ir.TensorType(dtype)
    return node


def _cast_border(graph: ir.Graph, kept: set[ir.Node]) -> None:
    """A Cast wherever float32 meets FP16: behind inputs, around the nodes in `kept`, before outputs; names stay."""
    import onnx_ir as ir

    names = UniqueNames({node.name or "" for node in graph} | set(graph.initializers))
    for value in [*graph.inputs, *(v for node in list(graph) for v in node.outputs)]:
        if value.dtype == ir.DataType.FLOAT:
            halves = [u for u in value.uses() if not _stays_float32(u.node, u.idx, kept) and u.node.op_type not in ANY]
            _cast_uses(graph, value, halves, ir.DataType.FLOAT16, names)
        elif value.dtype == ir.DataType.FLOAT16:
            floats = [u for u in value.uses() if _stays_float32(u.node, u.idx, kept)]
            _cast_uses(graph, value, floats, ir.DataType.FLOAT, names)
    for position, value in enumerate(list(graph.outputs)):
        if value.dtype == ir.DataType.FLOAT16:
            inner_name, value.name = value.name, names(f"{value.name}/float16")
            leave = _cast(names(f"{inner_name}/Cast"), value, ir.DataType.FLOAT)
            leave.outputs[0].name = inner_name
            graph.append(leave)
            graph.outputs[position] = leave.outputs[0]


def _cast_uses(
    graph: ir.Graph, value: ir.Value, uses: Sequence[tuple[ir.Node, int]], dtype: ir.DataType, names: UniqueNames
) -> None:
    """One Cast of `value` for all of `uses`, right behind its producer."""
    if not uses:
        return
    producer = value.producer()
    node = _cast(names(f"{value.name}/Cast"), value, dtype)
    for user, position in uses:
        user.replace_input_with(position, node.outputs[0])
    if producer is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(producer, node)
