"""FP16: the same integers, one type everywhere inside, float32 at the border, and no number that FP16 cannot hold."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from torch import Tensor

from gpusq.errors import LintError, NonFiniteError, UnsupportedModelError
from gpusq.graph.fp16 import to_fp16, to_half
from gpusq.graph.model_file import model_bytes
from gpusq.graph.precision import type_problems


def small_model(nodes: list[tuple[str, list[str], str]], constants: dict[str, np.ndarray], opset: int = 21) -> ir.Model:
    """x [batch, 4] float32 -> y, through single-output nodes (operator, inputs, output)."""
    shape = ir.Shape(["batch", 4])
    values = {"x": ir.val("x", dtype=ir.DataType.FLOAT, shape=shape)}
    values |= {
        k: ir.val(k, const_value=ir.tensor(v), dtype=ir.tensor(v).dtype, shape=v.shape) for k, v in constants.items()
    }
    made = []
    for operator, inputs, output in nodes:
        node = ir.Node("", operator, [values[name] for name in inputs], name=f"{output}/{operator}")
        values[output] = node.outputs[0]
        node.outputs[0].name, node.outputs[0].type = output, ir.TensorType(ir.DataType.FLOAT)
        made.append(node)
    values["y"].shape = shape
    initializers = [values[name] for name in constants]
    graph = ir.Graph(
        [values["x"]], [values["y"]], nodes=made, initializers=initializers, opset_imports={"": opset}, name="g"
    )
    return ir.Model(graph, ir_version=10)


def constant_of(model: ir.Model, name: str) -> float:
    return float(model.graph.initializers[name].const_value.numpy())


def test_integers_are_the_same_and_no_float32_is_left_inside(exported: ir.Model) -> None:
    before = model_bytes(exported)
    half = to_fp16(exported)
    assert model_bytes(exported) == before  # a copy was converted
    for name, value in exported.graph.initializers.items():
        found = half.graph.initializers[name].const_value.numpy()
        if value.dtype == ir.DataType.INT8:
            assert np.array_equal(found, value.const_value.numpy())
        elif value.dtype == ir.DataType.FLOAT:
            assert found.dtype == np.float16
    border = {"pixel_values", "logits"}
    inside = [v for node in half.graph for v in node.outputs if v.dtype == ir.DataType.FLOAT]
    assert {v.name for v in inside} <= border


def test_border_is_float32_with_one_cast_each(exported: ir.Model) -> None:
    half = to_fp16(exported)
    assert [(v.name, v.dtype) for v in [*half.graph.inputs, *half.graph.outputs]] == [
        ("pixel_values", ir.DataType.FLOAT),
        ("logits", ir.DataType.FLOAT),
    ]
    assert Counter(node.op_type for node in half.graph)["Cast"] == 2
    assert [v.shape for v in half.graph.outputs] == [v.shape for v in exported.graph.outputs]


def test_norms_keep_float32_inside(exported: ir.Model) -> None:
    norms = [node for node in to_fp16(exported).graph if node.op_type == "LayerNormalization"]
    assert norms
    assert all(node.attributes["stash_type"].as_int() == ir.DataType.FLOAT for node in norms)
    assert all(node.attributes["epsilon"].as_float() == pytest.approx(1e-12) for node in norms)


def test_logits_stay_near_float32(exported: ir.Model, images: Tensor) -> None:
    outputs = [
        onnxruntime.InferenceSession(model_bytes(model), providers=["CPUExecutionProvider"]).run(
            None, {"pixel_values": images.numpy()}
        )[0]
        for model in (exported, to_fp16(exported))
    ]
    assert outputs[1].dtype == np.float32
    assert np.abs(outputs[0] - outputs[1]).max() <= 0.05 * np.abs(outputs[0]).max()


def test_same_model_same_bytes(exported: ir.Model) -> None:
    assert model_bytes(to_fp16(exported)) == model_bytes(to_fp16(exported))


def test_mixing_float_and_half_is_caught(exported: ir.Model) -> None:
    half = to_fp16(exported)
    assert type_problems(half) == []
    bias = half.graph.initializers["embed.bias"]
    bias.const_value = ir.tensor(bias.const_value.numpy().astype(np.float32), name=bias.name)
    bias.type = ir.TensorType(ir.DataType.FLOAT)
    problems = type_problems(half)
    assert problems
    assert "embed" in problems[0]


def test_refuses_a_model_whose_types_still_mix() -> None:
    model = small_model([("Add", ["x", "c"], "y")], {"c": np.float64([1.0])})
    with pytest.raises(LintError, match="strongly typed"):
        to_fp16(model)


@pytest.mark.parametrize("bad", [70000.0, -1e9, np.nan, np.inf])
def test_refuses_what_fp16_cannot_hold_by_name(exported: ir.Model, bad: float) -> None:
    value = exported.graph.initializers["head.weight"]
    array = value.const_value.numpy().copy()
    array[2, 3] = bad
    value.const_value = ir.tensor(array)
    with pytest.raises(NonFiniteError, match=r"head\.weight"):
        to_fp16(exported)


def test_refuses_a_scale_that_would_be_subnormal(exported: ir.Model) -> None:
    value = exported.graph.initializers["blocks.0.fc1.input_scale"]
    value.const_value = ir.tensor(np.float32(1e-6))
    with pytest.raises(NonFiniteError, match=r"blocks\.0\.fc1\.input_scale"):
        to_fp16(exported)


def test_minus_infinity_of_a_mask_stays() -> None:
    assert np.isneginf(to_half(np.float32([-np.inf, 1.0]), "mask")[0])


def test_a_tiny_guard_is_raised_to_the_smallest_normal() -> None:
    model = small_model([("Add", ["x", "eps"], "y")], {"eps": np.float32(1e-12)})
    assert constant_of(to_fp16(model), "eps") == 2.0**-14


def test_a_tiny_factor_is_refused() -> None:
    model = small_model([("Mul", ["x", "c"], "y")], {"c": np.float32(1e-12)})
    with pytest.raises(NonFiniteError, match="zero"):
        to_fp16(model)


def test_refuses_quantizers_of_an_opset_without_half(exported: ir.Model) -> None:
    exported.graph.opset_imports[""] = 18
    with pytest.raises(UnsupportedModelError, match="19"):
        to_fp16(exported)


def test_identity_border_needs_no_inner_node() -> None:
    half = to_fp16(small_model([("Relu", ["x"], "y")], {}))
    assert [node.op_type for node in half.graph] == ["Cast", "Relu", "Cast"]
