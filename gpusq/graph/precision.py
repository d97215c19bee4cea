"""Types in the graph, checked against the operators' own definitions: nothing mixes float and half."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir


def type_problems(model: ir.Model) -> list[str]:
    """One line per operator input that breaks its operator's type rules; [] for a strongly typed model.

    Types are inferred anew (strict ONNX inference), not read from annotations. Inputs that share a type variable in
    the operator's definition must have one type: that is what a strongly typed network demands of an Add.
    """
    import onnx
    import onnx_ir as ir

    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        return [line.strip() for line in str(error).splitlines() if line.strip()]
    types = _tensor_types(inferred)
    opsets = {entry.domain: entry.version for entry in inferred.opset_import}
    return [problem for node in inferred.graph.node for problem in _node_problems(node, types, opsets)]


def _tensor_types(proto: onnx.ModelProto) -> dict[str, int]:
    graph = proto.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        types[value.name] = value.type.tensor_type.elem_type
    return types


def _node_problems(node: onnx.NodeProto, types: dict[str, int], opsets: dict[str, int]) -> list[str]:
    import onnx

    name = onnx.TensorProto.DataType.Name
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return [f"{node.name}: operator {node.domain}::{node.op_type} is not defined in ONNX"]
    allowed = {rule.type_param_str: rule.allowed_type_strs for rule in schema.type_constraints}
    problems: list[str] = []
    bound: dict[str, int] = {}
    for position, tensor in enumerate(node.input):
        formal = schema.inputs[min(position, len(schema.inputs) - 1)]
        found = types.get(tensor)
        if not tensor or found is None:
            continue
        written = f"tensor({name(found).lower()})"
        if written not in allowed.get(formal.type_str, [formal.type_str]):
            problems.append(f"{node.name} ({node.op_type}): input {tensor} is {name(found)}, not allowed there")
        if formal.type_str in allowed and formal.is_homogeneous:
            first = bound.setdefault(formal.type_str, found)
            if first != found:
                problems.append(f"{node.name} ({node.op_type}): input {tensor} is {name(found)} beside {name(first)}")
    return problems
