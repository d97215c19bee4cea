"""Operators of ONNX files by pencil and paper: products, 2:4 and INT8 weights, patterns that run as one kernel."""

from __future__ import annotations

import numpy as np
import pytest

from gpusq.latency import predict
from gpusq.latency.onnx_weights import fits_two_four
from gpusq.latency.onnx_workload import workload_of
from gpusq.targets import load_target
from tests.latency.onnx_files import HALF, dense, gemms, kinds, linear, model, node, quantized_linear, two_four


def test_a_roll_along_two_axes_is_one_kernel() -> None:
    numbers = {name: np.array([value]) for name, value in (("zero", 0), ("two", 2), ("end", 99), ("a1", 1), ("a2", 2))}
    nodes = [node("Conv", ["x", "w"], "c", kernel_shape=[1, 1])]
    source = "c"
    for axis in ("a1", "a2"):
        head, tail = f"{axis}/head", f"{axis}/tail"
        nodes += [
            node("Slice", [source, "two", "end", axis], tail),
            node("Slice", [source, "zero", "two", axis], head),
            node("Concat", [tail, head], f"{axis}/rolled", axis=int(axis[1])),
        ]
        source = f"{axis}/rolled"
    nodes.append(node("Relu", [source], "y"))
    found = workload_of(model(nodes, {"w": dense(4, 4, 1, 1), **numbers}, {"x": ["batch", 4, 6, 6]}))
    assert [op.name.rpartition("/")[2] for op in found.workload.ops if op.kind == "memory"] == ["roll", "relu"]
    assert len(predict(found.workload, (), load_target("a100"), 1).ops) == 2


def test_gemm_transposes_and_names_of_torchscript() -> None:
    nodes = [node("Gemm", ["x", "w", "b"], "y", "/vit/layer.0/query/Gemm", transB=1)]
    found = workload_of(model(nodes, {"w": dense(16, 8), "b": dense(16)}, {"x": ["batch", 8]}))
    assert gemms(found) == [("vit.layer.0.query", 1, 16, 8, 1)]


def test_convolutions_are_implicit_gemms() -> None:
    nodes = [
        node("Conv", ["x", "w1"], "a", strides=[2, 2], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Conv", ["a", "w2"], "y", group=4, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    ]
    found = workload_of(model(nodes, {"w1": dense(8, 3, 3, 3), "w2": dense(8, 2, 3, 3)}, {"x": ["n", 3, 8, 8]}))
    assert [shape for _, *shape in gemms(found)] == [[16, 8, 27, 1], [16, 2, 18, 4]]
    assert [layer.kind for layer in found.layers] == ["conv", "conv"]
    assert found.layers[1].groups == 4


def test_einsum_counts_rows_columns_reduction_and_repeats() -> None:
    nodes = [
        node("Einsum", ["x", "w"], "a", equation="btk,kn->btn"),
        node("Einsum", ["a", "a"], "y", equation="btn,bsn->bts"),
    ]
    found = workload_of(model(nodes, {"w": dense(8, 12)}, {"x": ["batch", 5, 8]}))
    ops = [(op.kind, op.m, op.n, op.k, op.count) for op in found.workload.ops]
    assert ops == [("gemm", 5, 12, 8, 1), ("bmm", 5, 5, 12, 1)]


@pytest.mark.parametrize("rank", [3, 4])
def test_attention_operators_are_their_products(rank: int) -> None:
    shape = ["batch", 6, 32] if rank == 3 else ["batch", 4, 6, 8]
    heads = {"q_num_heads": 4, "kv_num_heads": 4} if rank == 3 else {}
    names = ["q", "k", "v"]
    found = workload_of(model([node("Attention", names, "y", **heads)], {}, dict.fromkeys(names, shape), opset=23))
    ops = [(op.kind, op.m, op.n, op.k, op.count) for op in found.workload.ops]
    assert ops == [("bmm", 6, 6, 8, 4), ("memory", 0, 0, 0, 1), ("bmm", 6, 8, 6, 4)]
    assert len(predict(found.workload, (), load_target("a100"), 1).ops) == 1  # one fused kernel


def test_packed_attention_of_onnx_runtime() -> None:
    nodes = [node("Attention", ["x", "w", "b"], "y", domain="com.microsoft", num_heads=2)]
    weights = {"w": dense(8, 24), "b": dense(24)}
    found = workload_of(model(nodes, weights, {"x": ["batch", 6, 8]}, domains=["com.microsoft"]))
    assert gemms(found)[0][1:] == (6, 24, 8, 1)
    assert kinds(found) == ["gemm", "bmm", "memory", "bmm"]
    assert found.unknown == {}


def test_two_four_is_told_by_the_bytes_along_the_reduction() -> None:
    along, across = two_four(dense(8, 16), 0), two_four(dense(8, 16), 1)
    assert workload_of(linear(along)).layers[0].sparse
    assert not workload_of(linear(across)).layers[0].sparse
    broken = along.copy()
    broken[0, 0] = 1.0
    assert not workload_of(linear(broken)).layers[0].sparse
    assert workload_of(linear(along.astype(np.float16), dtype=HALF)).layers[0].sparse


def test_two_four_of_convolutions_runs_along_input_channels() -> None:
    def conv(weight: np.ndarray) -> bool:
        nodes = [node("Conv", ["x", "w"], "y", kernel_shape=[3, 3])]
        return workload_of(model(nodes, {"w": weight}, {"x": ["n", 8, 8, 8]})).layers[0].sparse

    assert conv(two_four(dense(4, 8, 3, 3), 1))
    assert not conv(dense(4, 8, 3, 3))


@pytest.mark.parametrize(("rows", "places", "holds"), [(8, 2, True), (8, 3, False)])
def test_two_four_counts_every_group(rows: int, places: int, holds: bool) -> None:
    array = np.ones((600, rows), np.int8)
    array[:, places:] = 0
    array[:, 4:] = 0
    array[:-1, 2:] = 0  # only the last row decides
    assert fits_two_four(array, 1) is holds


def test_int8_needs_both_operands() -> None:
    weight = two_four(np.full((8, 16), 3, np.float32), 0)
    whole, half = (workload_of(quantized_linear(weight, activation=a)).layers[0] for a in (True, False))
    assert (whole.int8, whole.sparse, whole.why_float) == (True, True, "")
    assert not half.int8
    assert "one operand" in half.why_float


def test_qdq_behind_a_transpose_is_seen_through() -> None:
    scale, zero = np.array(0.1, np.float32), np.array(0, np.int8)
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], "q"),
        node("DequantizeLinear", ["q", "s", "z"], "d"),
        node("DequantizeLinear", ["w8", "s", "z"], "w"),
        node("Transpose", ["w"], "wt", perm=[1, 0]),
        node("MatMul", ["d", "wt"], "y", "fc/MatMul"),
    ]
    weight = two_four(np.full((16, 8), 3, np.float32), 1).astype(np.int8)
    layer = workload_of(model(nodes, {"w8": weight, "s": scale, "z": zero}, {"x": ["batch", 5, 8]})).layers[0]
    assert (layer.int8, layer.sparse, layer.out, layer.k) == (True, True, 16, 8)


def test_integer_operators_are_int8() -> None:
    one, zero, zero32 = np.array(0.1, np.float32), np.array(0, np.int8), np.zeros((8, 16), np.int8) + 1
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], "q"),
        node("QLinearMatMul", ["q", "s", "z", "w", "s", "z", "s", "z"], "p", "fc/QLinearMatMul"),
        node("DequantizeLinear", ["p", "s", "z"], "y"),
    ]
    found = workload_of(model(nodes, {"w": zero32, "s": one, "z": zero}, {"x": ["batch", 5, 8]}))
    assert gemms(found) == [("fc", 5, 16, 8, 1)]
    assert found.layers[0].int8


def test_unknown_operators_are_memory_bound_and_listed() -> None:
    nodes = [
        node("MatMul", ["x", "w"], "a", "fc/MatMul"),
        node("Magic", ["a"], "b", domain="acme"),
        node("Magic", ["b"], "c", domain="acme"),
        node("Relu", ["c"], "y"),
    ]
    found = workload_of(model(nodes, {"w": dense(8, 16)}, {"x": ["batch", 5, 8]}, domains=["acme"]))
    assert found.unknown == {"acme::Magic": 2}
    assert kinds(found) == ["gemm", "memory", "memory", "memory"]
    assert any("unknown operators" in note for note in found.notes)


def test_a_layer_norm_in_small_steps_is_one_kernel() -> None:
    two, tiny = np.array(2.0, np.float32), np.array(1e-6, np.float32)
    nodes = [
        node("MatMul", ["x", "w"], "a", "fc/MatMul"),
        node("ReduceMean", ["a", "last"], "mean", keepdims=1),
        node("Sub", ["a", "mean"], "d"),
        node("Pow", ["d", "two"], "sq"),
        node("ReduceMean", ["sq", "last"], "var", keepdims=1),
        node("Add", ["var", "tiny"], "shifted"),
        node("Sqrt", ["shifted"], "root"),
        node("Div", ["d", "root"], "normed"),
        node("Mul", ["normed", "gain"], "y"),
    ]
    weights = {"w": dense(8, 16), "last": np.array([-1]), "two": two, "tiny": tiny, "gain": dense(16)}
    found = workload_of(model(nodes, weights, {"x": ["batch", 5, 8]}))
    names = [op.name.rpartition("/")[2] for op in found.workload.ops]
    assert names == ["fc", "layer_norm", "mul"]
    assert len(predict(found.workload, (), load_target("a100"), 1).ops) == 2


def test_a_gelu_in_small_steps_costs_no_traffic_of_its_own() -> None:
    parts = {"root": np.array(1.41, np.float32), "one": np.array(1.0, np.float32), "half": np.array(0.5, np.float32)}
    nodes = [
        node("MatMul", ["x", "w"], "a", "fc/MatMul"),
        node("Div", ["a", "root"], "b"),
        node("Erf", ["b"], "c"),
        node("Add", ["c", "one"], "d"),
        node("Mul", ["a", "d"], "e"),
        node("Mul", ["e", "half"], "y"),
    ]
    written_out = workload_of(model(nodes, {"w": dense(8, 16), **parts}, {"x": ["batch", 5, 8]}))
    whole = workload_of(model([nodes[0], node("Gelu", ["a"], "y")], {"w": dense(8, 16)}, {"x": ["batch", 5, 8]}))
    times = [predict(found.workload, (), load_target("a100"), 64).latency_ms for found in (written_out, whole)]
    assert times[0] == pytest.approx(times[1], rel=1e-9)
