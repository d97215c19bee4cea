"""Small ONNX graphs as other tools write them, made here by hand with onnx.helper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gpusq.latency.onnx_workload import OnnxModel

FLOAT, HALF, INT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8


def dense(*shape: int, seed: int = 0) -> np.ndarray:
    """Random float32 numbers, none of them zero."""
    return np.random.default_rng(seed).uniform(0.5, 1.5, shape).astype(np.float32)


def two_four(array: np.ndarray, axis: int) -> np.ndarray:
    """The same numbers with the first two of each four along `axis` set to zero."""
    moved = np.moveaxis(array.copy(), axis, -1)
    moved.reshape(-1, 4)[:, :2] = 0
    folded = np.ascontiguousarray(moved).reshape(-1, 4)
    folded[:, :2] = 0
    return np.moveaxis(folded.reshape(moved.shape), -1, axis)


def node(kind: str, inputs: Sequence[str], output: str, name: str = "", domain: str = "", **attributes: Any) -> Any:
    """One node with one output."""
    return helper.make_node(kind, list(inputs), [output], name=name or f"{output}/{kind}", domain=domain, **attributes)


def model(
    nodes: Sequence[Any],
    weights: dict[str, np.ndarray],
    inputs: dict[str, Sequence[int | str | None]],
    output: str = "y",
    *,
    opset: int = 21,
    dtype: int = FLOAT,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model whose inputs have these shapes; a text is an open dimension. The output's shape is left open."""
    graph = helper.make_graph(
        list(nodes),
        "made by hand",
        [helper.make_tensor_value_info(name, dtype, list(shape)) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(output, dtype, None)],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def linear(weight: np.ndarray | None = None, *, batch: int | str = "batch", dtype: int = FLOAT) -> onnx.ModelProto:
    """x [batch, 5, 8] times one weight [8, 16]."""
    weight = dense(8, 16) if weight is None else weight
    return model(
        [node("MatMul", ["x", "fc.weight"], "y", "fc/MatMul")], {"fc.weight": weight}, {"x": [batch, 5, 8]}, dtype=dtype
    )


def quantized_linear(weight: np.ndarray, *, activation: bool = True) -> onnx.ModelProto:
    """x [batch, 5, K] through Q/DQ (where asked) times an INT8 weight [K, N] through DQ."""
    scale, zero = np.array(0.1, np.float32), np.array(0, np.int8)
    nodes = [node("DequantizeLinear", ["w8", "s", "z"], "w")]
    source = "x"
    if activation:
        nodes += [node("QuantizeLinear", ["x", "s", "z"], "q"), node("DequantizeLinear", ["q", "s", "z"], "d")]
        source = "d"
    nodes.append(node("MatMul", [source, "w"], "y", "fc/MatMul"))
    weights = {"w8": weight.astype(np.int8), "s": scale, "z": zero}
    return model(nodes, weights, {"x": ["batch", 5, weight.shape[0]]})


def gemms(found: OnnxModel) -> list[tuple[str, int, int, int, int]]:
    """(name, m, n, k, count) of each GEMM with weights."""
    return [(op.name, op.m, op.n, op.k, op.count) for op in found.workload.ops if op.kind == "gemm"]


def kinds(found: OnnxModel) -> list[str]:
    """The kind of each operator, in order."""
    return [op.kind for op in found.workload.ops]
