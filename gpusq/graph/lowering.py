"""From placeholder quantizers to standard QuantizeLinear/DequantizeLinear with INT8 initializers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpusq.errors import NonFiniteError, UnsupportedModelError
from gpusq.graph.naming import UniqueNames, module_path, propose_name
from gpusq.graph.translation import DOMAIN, PLACEHOLDER

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray


def lower_fake_quantize(model: ir.Model) -> None:
    """Replace every placeholder, in place.

    Weights become INT8 initializers followed by one DequantizeLinear, stored in the layout in which the GEMM reads
    them (a Transpose between weight and MatMul is applied to the integers). Activations become one
    QuantizeLinear/DequantizeLinear pair per consumer: runtimes fuse a pair into the GEMM that owns it, and a pair that
    three GEMMs share is fused into one of them only. Zero points are 0 and explicit.
    Raises UnsupportedModelError for a quantizer that is not INT8 or whose scale is no constant, NonFiniteError for a
    weight or scale that is not finite.
    """
    graph = model.graph
    names = UniqueNames(set(graph.initializers))
    for node in [n for n in graph if (n.domain, n.op_type) == (DOMAIN, PLACEHOLDER)]:
        _check_range(node)
        source = node.inputs[0]
        if source is not None and source.is_initializer():
            _lower_weight(graph, node, names)
        else:
            _lower_activation(graph, node, names)
        graph.remove(node, safe=True)
    model.opset_imports.pop(DOMAIN, None)


def quantize(values: NDArray[np.float32], scale: NDArray[np.float32], axis: int, lo: int, hi: int) -> NDArray[np.int8]:
    """round_half_even(values / scale) clipped to [lo, hi]; scale 0-d, or 1-d along `axis`. The op's own arithmetic."""
    if scale.ndim:
        scale = scale.reshape([-1 if d == axis % values.ndim else 1 for d in range(values.ndim)])
    integers: NDArray[np.int8] = np.clip(np.rint(values / scale), lo, hi).astype(np.int8)
    return integers


def _check_range(node: ir.Node) -> None:
    lo, hi = node.attributes["lo"].as_int(), node.attributes["hi"].as_int()
    if lo < -128 or hi != 127:
        raise UnsupportedModelError(
            f"export: quantizer {module_path(node)} must be INT8, lo -127 or -128 and hi 127",
            got=f"lo {lo}, hi {hi}",
            do="re-run qat with 8 bits; lower bit widths have no engine and end at the accuracy report",
        )


def _constant(value: ir.Value | None, what: str, place: str) -> NDArray[np.float32]:
    import onnx_ir as ir

    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None:
        raise UnsupportedModelError(
            f"export: the {what} of quantizer {place} must be a constant", do="seal the scales before the export"
        )
    array: NDArray[np.float32] = np.asarray(tensor.numpy(), dtype=np.float32)
    if not np.isfinite(array).all() or (what == "scale" and not (array > 0).all()):
        raise NonFiniteError(
            f"export: the {what} of quantizer {place} must be finite" + (" and positive" if what == "scale" else ""),
            do="calibrate again; see the layer's range report",
        )
    return array


def _names_for(placeholder: ir.Node, consumer: ir.Node) -> tuple[str, str]:
    """(node name prefix, scale name): by the consuming layer for "weight" and "input", else by the quantizer's path.

    The exporter merges equal quantizers, so the quantizer's own path may be that of another layer.
    """
    path = module_path(placeholder)
    role = path.rpartition(".")[2].removesuffix("_quantizer")
    owner = module_path(consumer)
    if role in ("weight", "input") and owner:
        return f"{owner}/{role}_", f"{owner}.{role}_scale"
    return f"{path}/", f"{path}.scale"


def _initializer(graph: ir.Graph, names: UniqueNames, name: str, array: NDArray[np.generic]) -> ir.Value:
    import onnx_ir as ir

    tensor = ir.tensor(np.ascontiguousarray(array) if array.ndim else array)
    value = ir.val(names(name), dtype=tensor.dtype, shape=list(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value


def _zero_point(graph: ir.Graph, names: UniqueNames, scale: NDArray[np.float32]) -> ir.Value:
    """INT8 zeros shaped like the scale; one per shape in the whole file."""
    name = f"zero_point.{scale.size}" if scale.ndim else "zero_point.scalar"
    if name in graph.initializers:
        return graph.initializers[name]
    return _initializer(graph, names, name, np.zeros(scale.shape, np.int8))


def _lower_weight(graph: ir.Graph, node: ir.Node, names: UniqueNames) -> None:
    place = module_path(node)
    weight = _constant(node.inputs[0], "weight", place)
    scale = _constant(node.inputs[1], "scale", place)
    axis, lo, hi = (node.attributes[key].as_int() for key in ("axis", "lo", "hi"))
    integers = quantize(weight, scale, axis, lo, hi)
    for consumer, position in list(node.outputs[0].uses()):
        _place_weight(graph, names, node, (consumer, position), integers, scale, axis % weight.ndim)


def _place_weight(
    graph: ir.Graph,
    names: UniqueNames,
    node: ir.Node,
    use: tuple[ir.Node, int],
    integers: NDArray[np.int8],
    scale: NDArray[np.float32],
    axis: int,
) -> None:
    """One DequantizeLinear for one use; a Transpose is applied to the integers and its users are fed directly."""
    consumer, position = use
    if consumer.op_type == "Transpose":
        perm = list(consumer.attributes["perm"].as_ints())
        for inner in list(consumer.outputs[0].uses()):
            _place_weight(graph, names, node, inner, integers.transpose(perm), scale, perm.index(axis))
        if not consumer.outputs[0].uses():
            graph.remove(consumer, safe=True)
        return
    prefix, scale_name = _names_for(node, consumer)
    stored = _initializer(graph, names, scale_name.removesuffix("_scale") + "_int8", integers)
    inputs = [stored, _initializer(graph, names, scale_name, scale), _zero_point(graph, names, scale)]
    source = node.outputs[0]
    consumer.replace_input_with(position, _dequantize(consumer, inputs, axis if scale.ndim else None, prefix, source))


def _dequantize(consumer: ir.Node, inputs: list[ir.Value], axis: int | None, prefix: str, source: ir.Value) -> ir.Value:
    import onnx_ir as ir

    attributes = {} if axis is None else {"axis": ir.AttrInt64("axis", axis)}
    node = ir.Node("", "DequantizeLinear", inputs, attributes)
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    node.outputs[0].shape = inputs[0].shape or source.shape
    propose_name(node, f"{prefix}DequantizeLinear")
    consumer.prepend(node)
    return node.outputs[0]


def _lower_activation(graph: ir.Graph, node: ir.Node, names: UniqueNames) -> None:
    scale = _constant(node.inputs[1], "scale", module_path(node))
    if node.outputs[0].is_graph_output():
        raise UnsupportedModelError(f"export: the model's output must not be quantized, {module_path(node)} does it")
    for use in list(node.outputs[0].uses()):
        _place_pair(graph, names, node, (use.node, use.idx), scale)


def _place_pair(
    graph: ir.Graph, names: UniqueNames, node: ir.Node, use: tuple[ir.Node, int], scale: NDArray[np.float32]
) -> None:
    """One QuantizeLinear/DequantizeLinear pair for one use, right before the consumer.

    A Transpose between quantizer and product changes no value of a tensor with one scale, so the pair goes behind it:
    runtimes fuse a pair only into its neighbour.
    """
    consumer, source = use[0], node.inputs[0]
    if consumer.op_type == "Transpose" and scale.ndim == 0:
        consumer.replace_input_with(0, source)
        for inner in list(consumer.outputs[0].uses()):
            _insert_pair(graph, names, node, (inner.node, inner.idx), consumer.outputs[0], scale)
    elif source is not None:
        _insert_pair(graph, names, node, use, source, scale)


def _insert_pair(
    graph: ir.Graph,
    names: UniqueNames,
    node: ir.Node,
    use: tuple[ir.Node, int],
    source: ir.Value,
    scale: NDArray[np.float32],
) -> None:
    import onnx_ir as ir

    consumer, position = use
    axis = None if scale.ndim == 0 else node.attributes["axis"].as_int()
    prefix, scale_name = _names_for(node, consumer)
    parameters = [_initializer(graph, names, scale_name, scale), _zero_point(graph, names, scale)]
    attributes = {} if axis is None else {"axis": ir.AttrInt64("axis", axis)}
    quantized = ir.Node("", "QuantizeLinear", [source, *parameters], attributes)
    quantized.outputs[0].type = ir.TensorType(ir.DataType.INT8)
    quantized.outputs[0].shape = source.shape
    propose_name(quantized, f"{prefix}QuantizeLinear")
    consumer.prepend(quantized)
    back = _dequantize(consumer, [quantized.outputs[0], *parameters], axis, prefix, source)
    consumer.replace_input_with(position, back)


def merge_transposes(model: ir.Model) -> None:
    """Make one Transpose of two in a row, in place; the first stays where others use it."""
    import onnx_ir as ir

    for node in model.graph:
        inner = node.inputs[0].producer() if node.op_type == "Transpose" and node.inputs[0] is not None else None
        if (
            inner is None
            or inner.op_type != "Transpose"
            or "perm" not in node.attributes
            or "perm" not in inner.attributes
        ):
            continue
        first, second = inner.attributes["perm"].as_ints(), node.attributes["perm"].as_ints()
        node.attributes["perm"] = ir.AttrInt64s("perm", [first[axis] for axis in second])
        node.replace_input_with(0, inner.inputs[0])
