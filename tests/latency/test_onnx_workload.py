"""ONNX files as workloads: our own exports agree with the torch trace, foreign ones with pencil and paper."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from gpusq.errors import MissingExtraError, UnsupportedModelError, UsageError
from gpusq.latency import predict
from gpusq.latency.onnx_workload import read_onnx, workload_of
from gpusq.stages.layer_files import read_layers, read_workload
from gpusq.targets import load_target
from gpusq.workload import Op
from tests.chain import Chain
from tests.latency.onnx_files import dense, gemms, kinds, linear, model, node, two_four

FILES = ("model.fp32.onnx", "model.fp16.onnx")


@pytest.mark.parametrize("role", ["model", "dense twin"])
@pytest.mark.parametrize("file", FILES)
def test_an_exported_file_reads_as_its_artifact_says(chain: Chain, role: str, file: str) -> None:
    artifact = chain.artifact("export", role)
    traced, layers = read_workload(artifact), read_layers(artifact)
    found = read_onnx(artifact.path / file)
    assert sorted(gemms(found)) == sorted(
        (op.name, op.m, op.n, op.k, op.count) for op in traced.ops if op.kind == "gemm"
    )
    assert found.workload.macs == traced.macs
    assert found.workload.input_shape == traced.input_shape
    assert {(x.name, x.kind, x.out, x.k, x.sparse, x.int8) for x in found.layers} == {
        (x.name, x.kind, x.out, x.k, x.sparse, x.int8) for x in layers
    }
    assert found.precision == file.split(".")[1]
    assert found.unknown == {}
    for target in map(load_target, ("a100", "agx-orin@30W")):
        for batch in (1, 8, 64):
            ours = predict(found.workload, found.layers, target, batch)
            theirs = predict(traced, layers, target, batch)
            assert ours.latency_ms == pytest.approx(theirs.latency_ms, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin-test", "dinov2-test", "deit-test", "vit-tiny"])
def test_exported_families_agree_with_the_trace(name: str) -> None:
    from gpusq.graph import export_onnx, model_bytes
    from gpusq.models import load_model, trace_workload

    loaded = load_model(f"new:{name}")
    shape = loaded.description.input_shape
    traced = trace_workload(loaded.module, shape)
    found = read_onnx(model_bytes(export_onnx(loaded.module, shape)))
    products = [sorted((o.kind, o.m, o.n, o.k, o.count) for o in w.ops if o.macs) for w in (traced, found.workload)]
    assert products[0] == products[1]
    for batch in (1, 32):
        times = [predict(w, (), load_target("a100"), batch).latency_ms for w in (traced, found.workload)]
        assert times[1] == pytest.approx(times[0], rel=0.05)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the old exporter warns of itself
@pytest.mark.parametrize(("name", "dynamo"), [("vit-test", False), ("swin-test", False), ("vit-test", True)])
def test_files_of_torchs_own_exporters_agree_with_the_trace(tmp_path: Path, name: str, dynamo: bool) -> None:
    import torch

    from gpusq.models import load_model, trace_workload

    loaded = load_model(f"new:{name}")
    module, shape = loaded.module.eval(), loaded.description.input_shape
    path = tmp_path / "foreign.onnx"
    x = torch.zeros(2, *shape)
    if dynamo:
        batch = ({0: torch.export.Dim("batch")},)
        torch.onnx.export(module, (x,), path, dynamo=True, verbose=False, opset_version=18, dynamic_shapes=batch)
    else:
        axes = {"x": {0: "batch"}}
        torch.onnx.export(module, (x,), path, dynamo=False, opset_version=17, input_names=["x"], dynamic_axes=axes)
    traced, found = trace_workload(module, shape), read_onnx(path)
    assert found.unknown == {}
    assert {op.name for op in found.workload.ops if op.kind == "gemm"} == {
        op.name for op in traced.ops if op.kind == "gemm"
    }
    assert found.workload.macs == traced.macs
    for batch_size in (1, 32):
        times = [predict(w, (), load_target("a100"), batch_size).latency_ms for w in (traced, found.workload)]
        assert times[1] == pytest.approx(times[0], rel=0.05)


@pytest.mark.slow
def test_a_file_quantized_by_onnx_runtime_is_int8(tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{"x": dense(2, 5, 8, seed=i)} for i in range(2)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    source, out = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    onnx.save(linear(two_four(dense(8, 16), 0)), source)
    for form in (QuantFormat.QDQ, QuantFormat.QOperator):
        quantize_static(
            source, out, Images(), quant_format=form, activation_type=QuantType.QInt8, weight_type=QuantType.QInt8
        )
        (layer,) = read_onnx(out).layers
        assert (layer.int8, layer.sparse, layer.out, layer.k) == (True, True, 16, 8)


def test_torchs_note_of_the_modules_names_a_layer() -> None:
    made = linear()
    made.graph.node[0].name = "node_MatMul_3"
    made.graph.node[0].metadata_props.add(
        key="pkg.torch.onnx.name_scopes", value="['', 'encoder', 'encoder.fc', 'linear']"
    )
    assert gemms(workload_of(made))[0][0] == "encoder.fc"
    made.graph.node[0].metadata_props[0].value = "['', ("
    assert gemms(workload_of(made))[0][0] == "fc"  # by the weight's name


def test_reading_a_file_imports_no_torch(tmp_path: Path) -> None:
    onnx.save(linear(), tmp_path / "model.onnx")
    code = (
        "import sys; from pathlib import Path; from gpusq.latency.onnx_workload import read_onnx; "
        f"read_onnx(Path({str(tmp_path / 'model.onnx')!r})); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_without_onnx_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"\.\[host\]"):
        read_onnx(b"")


def test_a_linear_layer_per_image() -> None:
    found = workload_of(linear())
    assert gemms(found) == [("fc", 5, 16, 8, 1)]
    (op,) = found.workload.ops
    assert (op.read, op.write) == (40, 80)
    assert found.workload.parameters == 128
    assert found.precision == "fp32"


def test_a_fixed_batch_is_shared_out() -> None:
    found = workload_of(linear(batch=4))
    assert gemms(found) == [("fc", 5, 16, 8, 1)]
    assert found.images == 4
    assert any("batch of 4" in note for note in found.notes)


def test_a_layer_without_a_path_is_named_by_its_weight() -> None:
    nodes = [node("MatMul", ["x", "encoder.0.query.weight"], "y", "node_linear_3")]
    found = workload_of(model(nodes, {"encoder.0.query.weight": dense(8, 16)}, {"x": ["batch", 5, 8]}))
    assert gemms(found)[0][0] == "encoder.0.query"


def test_reshapes_from_shape_arithmetic_are_followed() -> None:
    nodes = [
        node("Shape", ["x"], "s"),
        node("Gather", ["s", "first"], "n"),
        node("Concat", ["n", "rest"], "to", axis=0),
        node("Reshape", ["x", "to"], "r"),
        node("MatMul", ["r", "w"], "y", "fc/MatMul"),
    ]
    weights = {"first": np.array([0]), "rest": np.array([-1, 4]), "w": dense(4, 16)}
    found = workload_of(model(nodes, weights, {"x": ["batch", 6, 8]}))
    assert gemms(found) == [("fc", 12, 16, 4, 1)]


def test_what_does_not_depend_on_the_image_costs_nothing() -> None:
    nodes = [
        node("Mul", ["table", "table"], "t"),
        node("MatMul", ["x", "w"], "a", "fc/MatMul"),
        node("Add", ["a", "t"], "y"),
    ]
    found = workload_of(model(nodes, {"table": dense(5, 16), "w": dense(8, 16)}, {"x": ["batch", 5, 8]}))
    assert kinds(found) == ["gemm", "memory"]
    assert isinstance(found.workload.ops[1], Op)
    assert found.workload.ops[1].read == 80  # the table is a weight


@pytest.mark.parametrize("dimension", ["height", None])
def test_open_dimensions_are_refused_with_the_way_out(dimension: str | None) -> None:
    made = model([node("Relu", ["x"], "y")], {}, {"x": ["batch", 3, dimension, 8]})
    with pytest.raises(UsageError, match=r"dimension 2.*--shape x=1x3x\?x8"):
        workload_of(made)
    found = workload_of(made, {"x": (1, 3, 8, 8)})
    assert found.workload.input_shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [({"z": (1, 3)}, "names an input"), ({"x": (1, 3, 8, 9)}, "the shape"), ({"x": (1, 3, 8)}, "the shape")],
)
def test_a_given_shape_must_fit_the_file(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    made = model([node("Relu", ["x"], "y")], {}, {"x": ["batch", 3, "height", 8]})
    with pytest.raises(UsageError, match=message):
        workload_of(made, shapes)


def test_shapes_that_depend_on_data_are_refused() -> None:
    nodes = [node("NonZero", ["x"], "i"), node("Cast", ["i"], "f", to=1), node("MatMul", ["w", "f"], "y")]
    with pytest.raises(UnsupportedModelError, match="NonZero"):
        workload_of(model(nodes, {"w": dense(4, 3)}, {"x": ["batch", 5, 8]}))


@pytest.mark.parametrize("content", [b"", b"not an onnx file at all", b"\x08\x0a"])
def test_other_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(UnsupportedModelError, match="ONNX model"):
        read_onnx(path)


def test_missing_external_data_is_refused(tmp_path: Path) -> None:
    onnx.save(linear(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    read_onnx(tmp_path / "m.onnx")
    (tmp_path / "w.bin").unlink()
    with pytest.raises(UnsupportedModelError, match=r"w\.bin|external"):
        read_onnx(tmp_path / "m.onnx")


def test_functions_of_the_file_are_opened() -> None:
    body = [helper.make_node("MatMul", ["a", "b"], ["c"], name="inner/MatMul")]
    function = helper.make_function("acme", "Times", ["a", "b"], ["c"], body, [helper.make_opsetid("", 21)])
    made = model(
        [node("Times", ["x", "w"], "y", domain="acme")], {"w": dense(8, 16)}, {"x": ["batch", 5, 8]}, domains=["acme"]
    )
    made.functions.append(function)
    assert [shape for _, *shape in gemms(workload_of(made))] == [[5, 16, 8, 1]]
