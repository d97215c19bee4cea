"""A small Q/DQ model made without torch: Linear 48 -> 8 in INT8, GELU, Linear 8 -> 5 in float."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

SHAPE = (3, 4, 4)
CLASSES = 5


def qdq_model(*, zero_point: int = 0, half: bool = False, float_bias: bool = False) -> bytes:
    """The model's bytes; `half` is the strongly typed FP16 form with casts at the border, `float_bias` breaks it."""
    rng = np.random.default_rng(0)
    real = np.float16 if half else np.float32
    weight = rng.integers(-127, 128, (48, 8)).astype(np.int8)
    weight.reshape(12, 4, 8)[:, :2] = 0  # 2:4 along K
    tensors = {
        "rows": np.int64([0, -1]),
        "fc1.input_scale": real(2.0**-5),
        "zero": np.int8(zero_point),
        "fc1.weight_int8": weight,
        "fc1.weight_scale": np.full(8, 2.0**-8, real),
        "zeros": np.zeros(8, np.int8),
        "fc1.bias": rng.standard_normal(8).astype(np.float32 if float_bias else real),
        "fc2.weight": rng.standard_normal((8, CLASSES)).astype(real),
    }
    flat = "half" if half else "pixel_values"
    steps = [
        ("fc1/Reshape", "Reshape", [flat, "rows"], {}),
        ("fc1/input_QuantizeLinear", "QuantizeLinear", ["fc1/Reshape", "fc1.input_scale", "zero"], {}),
        ("fc1/input_DequantizeLinear", "DequantizeLinear", ["fc1/input_QuantizeLinear", "fc1.input_scale", "zero"], {}),
        ("fc1/weight", "DequantizeLinear", ["fc1.weight_int8", "fc1.weight_scale", "zeros"], {"axis": 1}),
        ("fc1/MatMul", "MatMul", ["fc1/input_DequantizeLinear", "fc1/weight"], {}),
        ("fc1/Add", "Add", ["fc1/MatMul", "fc1.bias"], {}),
        ("fc1/Gelu", "Gelu", ["fc1/Add"], {}),
        ("last" if half else "logits", "MatMul", ["fc1/Gelu", "fc2.weight"], {}),
    ]
    if half:
        steps.insert(0, ("half", "Cast", ["pixel_values"], {"to": TensorProto.FLOAT16}))
        steps.append(("logits", "Cast", ["last"], {"to": TensorProto.FLOAT}))
    nodes = [
        helper.make_node(
            operator, inputs, [name], name="fc2/MatMul" if name in ("last", "logits") else name, **attributes
        )
        for name, operator, inputs, attributes in steps
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", *SHAPE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


@pytest.fixture(scope="session")
def fp32_model() -> bytes:
    return qdq_model()


@pytest.fixture(scope="session")
def fp16_model() -> bytes:
    return qdq_model(half=True)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., bytes]:
    return qdq_model


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((6, *SHAPE), dtype=np.float32)
