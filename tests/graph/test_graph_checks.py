"""Sabotage: a file that lost its 2:4, its zero points, its names or its types is caught and named."""

from __future__ import annotations

import copy

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpusq.errors import LintError, NonFiniteError, ParityError, SignatureError, SparsityCheckError
from gpusq.graph.checks import check_sparsity, violations_nm
from gpusq.graph.fp16 import to_fp16
from gpusq.graph.lint import Finding, check_lint, lint_tensorrt
from gpusq.graph.parity import check_parity, compare
from gpusq.graph.signature import check_signature, signature
from gpusq.graph.weights import stored_weights
from gpusq.stages import Build, Export, build, export
from gpusq.stages.stage import Stage
from gpusq.workload import Layer

NAMES = [f"blocks.{i}.{name}" for i in range(2) for name in ("q", "k", "v", "out", "fc1", "fc2")]
LAYERS = [Layer(name, "linear", 16, 16).pruned().quantized() for name in NAMES]


def set_weight(model: ir.Model, name: str, change: np.ndarray) -> None:
    value = model.graph.initializers[name]
    value.const_value = ir.tensor(change, name=name)
    value.type = ir.TensorType(value.const_value.dtype)


def rules(model: ir.Model, layers: list[Layer] | None = None) -> set[tuple[str, str]]:
    return {(finding.severity, finding.rule) for finding in lint_tensorrt(model, layers or [])}


@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_violations_agree_with_counting_group_by_group(rows: int, groups: int, seed: int) -> None:
    matrix = np.random.default_rng(seed).integers(-1, 2, (rows, groups * 4)).astype(np.int8)
    expected = sum(np.count_nonzero(row[i : i + 4]) > 2 for row in matrix for i in range(0, len(row), 4))
    assert violations_nm(matrix) == expected
    assert violations_nm(matrix.astype(np.float32) / 7) == expected


def test_a_width_that_four_does_not_divide_violates() -> None:
    assert violations_nm(np.zeros((3, 6))) == 3


@pytest.mark.parametrize("convert", [lambda model: model, to_fp16], ids=["float32", "float16"])
def test_pruned_layers_pass_in_both_files(exported: ir.Model, convert: object) -> None:
    counts = check_sparsity(convert(exported), LAYERS)  # type: ignore[operator]
    assert counts == dict.fromkeys(NAMES, 0)


def test_one_flipped_weight_is_caught_with_layer_and_count(exported: ir.Model) -> None:
    name = "blocks.1.fc2.weight_int8"
    integers = exported.graph.initializers[name].const_value.numpy().copy()  # [K, N]
    integers[0:4, 5] = [1, 1, 1, 0]
    set_weight(exported, name, integers)
    with pytest.raises(SparsityCheckError, match=r"blocks\.1\.fc2 \(1 groups\)"):
        check_sparsity(exported, LAYERS)


def test_the_pattern_along_the_wrong_axis_is_caught(exported: ir.Model) -> None:
    name = "blocks.0.out.weight_int8"
    set_weight(exported, name, exported.graph.initializers[name].const_value.numpy().T.copy())
    with pytest.raises(SparsityCheckError, match=r"blocks\.0\.out"):
        check_sparsity(exported, LAYERS)


def test_a_sparse_layer_that_the_file_lacks_is_caught(exported: ir.Model) -> None:
    with pytest.raises(SparsityCheckError, match="nowhere"):
        check_sparsity(exported, [*LAYERS, Layer("nowhere", "linear", 4, 4).pruned()])


def test_dense_layers_are_counted_and_not_refused(exported: ir.Model) -> None:
    assert check_sparsity(exported, [Layer("head", "linear", 5, 16)])["head"] > 0


def gemm(operator: str, weight: np.ndarray, attributes: dict[str, int], position: int = 1) -> ir.Model:
    x = ir.val("x", dtype=ir.DataType.FLOAT)
    w = ir.val("w", const_value=ir.tensor(weight), dtype=ir.DataType.FLOAT, shape=weight.shape)
    inputs = [x, w] if position == 1 else [w, x]
    node = ir.Node("", operator, inputs, {k: ir.AttrInt64(k, v) for k, v in attributes.items()}, name=f"a.b/{operator}")
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 21})
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize(
    ("operator", "attributes", "position", "to_file"),
    [
        ("MatMul", {}, 1, lambda w: w.T),
        ("MatMul", {}, 0, lambda w: w),
        ("Gemm", {"transB": 1}, 1, lambda w: w),
        ("Gemm", {}, 1, lambda w: w.T),
        ("Gemm", {}, 0, lambda w: w),
        ("Gemm", {"transA": 1}, 0, lambda w: w.T),
        ("Conv", {}, 1, lambda w: w.reshape(6, 8, 1, 1)),
    ],
)
def test_the_reduction_is_found_in_every_layout(
    operator: str, attributes: dict[str, int], position: int, to_file: object
) -> None:
    matrix = np.arange(48, dtype=np.float32).reshape(6, 8)  # [out, k]
    model = gemm(operator, np.ascontiguousarray(to_file(matrix)), attributes, position)  # type: ignore[operator]
    (found,) = stored_weights(model)
    assert found.layer == "a.b"
    assert np.array_equal(found.matrix, matrix)


def test_conv_groups_run_along_input_channels() -> None:
    weight = np.zeros((2, 8, 3, 3), np.float32)
    weight[:, [0, 1, 4, 5]] = 1
    (found,) = stored_weights(gemm("Conv", weight, {}))
    assert found.matrix.shape == (18, 8)
    assert violations_nm(found.matrix) == 0


def test_lint_accepts_the_export_in_both_precisions(exported: ir.Model) -> None:
    assert lint_tensorrt(exported, LAYERS) == []
    assert lint_tensorrt(to_fp16(exported), LAYERS) == []


def test_lint_catches_a_zero_point(exported: ir.Model) -> None:
    set_weight(exported, "zero_point.scalar", np.int8(3))
    assert ("refuse", "zero point") in rules(exported)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_lint_catches_other_quantized_types(exported: ir.Model, dtype: type) -> None:
    for name in ("zero_point.scalar",):
        set_weight(exported, name, dtype(0))
    for node in exported.graph:
        if node.op_type == "QuantizeLinear":
            node.outputs[0].type = ir.TensorType(ir.tensor(dtype(0)).dtype)
    assert ("refuse", "quantized type") in rules(exported)


def test_lint_catches_a_shared_pair(exported: ir.Model) -> None:
    nodes = {node.name: node for node in exported.graph}
    shared = nodes["blocks.0.q/input_DequantizeLinear"].outputs[0]
    nodes["blocks.0.k/MatMul"].replace_input_with(0, shared)
    findings = [f for f in lint_tensorrt(exported) if f.rule == "shared Q/DQ"]
    assert [f.node for f in findings] == ["blocks.0.q/input_DequantizeLinear"]


def test_lint_catches_a_float_weight_in_an_int8_layer(exported: ir.Model) -> None:
    head = Layer("head", "linear", 5, 16).quantized()
    assert [f.node for f in lint_tensorrt(exported, [head])] == ["head"]


@pytest.mark.parametrize(
    ("domain", "operator", "expected"),
    [
        ("com.example", "Relu", ("refuse", "unknown domain")),
        ("", "Det", ("refuse", "unknown operator")),
        ("", "NonMaxSuppression", ("refuse", "no kernel")),
        ("", "Attention", ("refuse", "no kernel")),
        ("", "GridSample", ("warn", "known wrong")),
        ("", "IsNaN", ("warn", "attention clutter")),
    ],
)
def test_lint_knows_operators(exported: ir.Model, domain: str, operator: str, expected: tuple[str, str]) -> None:
    node = next(n for n in exported.graph if n.op_type == "Gelu")
    node.domain, node.op_type = domain, operator
    assert expected in rules(exported)


def test_lint_catches_float64_and_mixed_types(exported: ir.Model) -> None:
    bias = exported.graph.initializers["embed.bias"].const_value.numpy().astype(np.float64)
    set_weight(exported, "embed.bias", bias)
    assert {("refuse", "float64"), ("refuse", "mixed types")} <= rules(exported)


def test_refusals_raise_and_warnings_pass() -> None:
    warning = Finding("warn", "known wrong", "n", "m")
    check_lint([warning])
    with pytest.raises(LintError, match="bad"):
        check_lint([warning, Finding("refuse", "zero point", "node", "bad")])


def test_signature_describes_the_border(exported: ir.Model) -> None:
    assert signature(exported) == {
        "inputs": [{"name": "pixel_values", "dtype": "float32", "shape": ["batch", 3, 8, 8]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", 5]}],
    }
    assert signature(to_fp16(exported)) == signature(exported)
    check_signature(signature(exported), signature(exported))


def test_a_renamed_input_breaks_the_signature(exported: ir.Model) -> None:
    frozen = signature(exported)
    exported.graph.inputs[0].name = "images"
    with pytest.raises(SignatureError, match=r"'pixel_values' is missing.*'images' is new"):
        check_signature(signature(exported), frozen)


@pytest.mark.parametrize(("key", "value"), [("shape", ["batch", 6]), ("shape", [1, 5]), ("dtype", "float16")])
def test_another_shape_or_type_breaks_the_signature(exported: ir.Model, key: str, value: object) -> None:
    frozen = signature(exported)
    found = copy.deepcopy(frozen)
    found["outputs"][0][key] = value
    with pytest.raises(SignatureError, match=f"'logits' has {key}"):
        check_signature(found, frozen)


def test_parity_of_equal_and_scaled_logits() -> None:
    logits = np.random.default_rng(0).standard_normal((6, 4))
    same = compare(logits, logits)
    assert (same.max_abs, same.relative, same.top1, same.n) == (0.0, 0.0, 1.0, 6)
    assert compare(logits, logits * 1.1).relative == pytest.approx(0.1)
    assert compare(logits, -logits).top1 == 0.0
    check_parity(same, relative=0.0, top1=1.0, what="x")


def test_parity_refuses() -> None:
    a = np.ones((2, 3))
    with pytest.raises(ParityError, match="shape"):
        compare(a, np.ones((2, 4)))
    with pytest.raises(NonFiniteError, match="found"):
        compare(a, a * np.nan)
    with pytest.raises(ParityError, match="FP16"):
        check_parity(compare(np.eye(3), np.eye(3) * 2), relative=0.5, top1=1.0, what="FP16 and FP32")


def test_parity_names_the_parameters_of_the_bars_that_were_missed() -> None:
    keys = {"relative": "export.float_tolerance", "top1": "export.fp16_agreement"}
    other = compare(np.eye(3), -np.eye(3))
    with pytest.raises(ParityError, match=r"change export\.fp16_agreement \(in the recipe or by --set\)$"):
        check_parity(other, relative=None, top1=1.0, what="x", keys=keys)
    with pytest.raises(ParityError, match=r"change export\.float_tolerance, export\.fp16_agreement \(in the"):
        check_parity(other, relative=0.5, top1=1.0, what="x", keys=keys)


@pytest.mark.parametrize(("stage", "keys"), [(Export(), export.KEYS), (Build(), build.KEYS)])
def test_the_parameters_that_parity_names_are_those_of_the_stage(stage: Stage, keys: dict[str, str]) -> None:
    for key in keys.values():
        name, _, parameter = key.partition(".")
        assert (name, hasattr(stage, parameter)) == (stage.name, True)
