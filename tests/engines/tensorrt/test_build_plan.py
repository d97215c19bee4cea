"""Real ahead-of-time builds with TensorRT-RTX, and its real refusals, through the one builder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from gpusq.engines.receipts import OnnxFacts, judge, receipt_of
from gpusq.engines.tensorrt import BuildProgress, PlanOptions, build_plan, layers_of, load_library
from gpusq.errors import EngineError, SparseShareError, UnsupportedNodeError, UsageError
from gpusq.workload import Layer, Workload
from tests.chain import Chain

pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra: pip install 'gpusq[rtx]'")

SHAPES = {"pixel_values": ((1, 3, 4, 4), (2, 3, 4, 4), (8, 3, 4, 4))}
OPTIONS = PlanOptions(profiles=(SHAPES,), workspace_mib=64, compute_capabilities=("8.0",))


@pytest.fixture(scope="module")
def trt() -> Any:
    return load_library("tensorrt-rtx")


def test_a_build_says_what_it_did(trt: Any, fp16_model: bytes) -> None:
    steps: list[BuildProgress] = []
    built = build_plan(trt, fp16_model, OPTIONS, progress=steps.append)
    assert (built.library, built.version, built.compute_capabilities) == ("tensorrt_rtx", trt.__version__, ("8.0",))
    assert len(built.plan) > 1000
    assert built.layer_dump.startswith("Layers:")
    assert (built.inspector_json, built.timing_cache) == (None, None)  # ahead of time there is no GPU to ask
    assert 0 < built.seconds < math.inf
    assert built.memory.host_mib >= max(step.host_mib for step in steps) > 0
    assert built.memory.device_mib is not None
    assert [layer.precision for layer in layers_of(built).layers if layer.gemm_nodes and layer.role == "gemm"] == [
        "int8",
        "fp16",
    ]


def test_progress_is_monotone_and_counts_within_its_phases(trt: Any, fp16_model: bytes) -> None:
    steps: list[BuildProgress] = []
    build_plan(trt, fp16_model, OPTIONS, progress=steps.append)
    assert steps[0].phase == "Building engine"
    assert [step.elapsed_s for step in steps] == sorted(step.elapsed_s for step in steps)
    assert all(0 <= step.step <= step.steps for step in steps)
    assert any(step.step == step.steps for step in steps)  # some phases end before their last step


def test_what_progress_raises_stops_the_build(trt: Any, fp16_model: bytes) -> None:
    calls = 0

    def stop(step: BuildProgress) -> None:
        nonlocal calls
        calls += 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_plan(trt, fp16_model, OPTIONS, progress=stop)
    assert calls == 1


def test_what_the_reader_of_messages_raises_comes_out_too(trt: Any, fp16_model: bytes) -> None:
    seen: list[str] = []
    build_plan(trt, fp16_model, OPTIONS, on_message=seen.append)
    assert any("Total Weights Memory" in message for message in seen)

    def stop(message: str) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        build_plan(trt, fp16_model, OPTIONS, on_message=stop)


def test_the_same_build_gives_the_same_layers(trt: Any, fp16_model: bytes) -> None:
    """The bytes are not compared: they are not promised, and differ after a cancelled build in the same process."""
    first, second = (layers_of(build_plan(trt, fp16_model, OPTIONS)).layers for _ in range(2))
    assert [(x.role, x.precision, x.nodes) for x in first] == [(x.role, x.precision, x.nodes) for x in second]


def test_several_profiles_and_capabilities(trt: Any, fp16_model: bytes) -> None:
    one = {"pixel_values": ((1, 3, 4, 4),) * 3}
    options = PlanOptions(profiles=(one, SHAPES), compute_capabilities=("8.0", "8.6", "8.9"), sparse=False)
    built = build_plan(trt, fp16_model, options)
    assert built.compute_capabilities == ("8.0", "8.6", "8.9")
    assert not built.sparse


def test_a_parse_refusal_names_node_operator_and_layer(trt: Any, make_model: Callable[..., bytes]) -> None:
    with pytest.raises(UnsupportedNodeError) as caught:
        build_plan(trt, make_model(half=True, zero_point=3), OPTIONS)
    assert "node fc1/input_QuantizeLinear (QuantizeLinear) of layer fc1" in caught.value.what
    assert "Non-zero zero point" in caught.value.got
    assert "symmetric" in caught.value.do


def test_a_clash_of_types_says_where_to_cast(trt: Any, make_model: Callable[..., bytes]) -> None:
    with pytest.raises(UnsupportedNodeError) as caught:
        build_plan(trt, make_model(half=True, float_bias=True), OPTIONS)
    assert "fc1/Add (Add) of layer fc1" in caught.value.what
    assert "Half and Float" in caught.value.got
    assert "cast" in caught.value.do


def test_bytes_that_are_no_model(trt: Any) -> None:
    with pytest.raises(EngineError, match="export"):
        build_plan(trt, b"nothing", OPTIONS)


@pytest.mark.parametrize(
    ("operator", "node"), [("NonMaxSuppression", "find/NonMaxSuppression"), ("Nothing", "find/Nothing")]
)
def test_an_operator_without_kernel_or_plugin(trt: Any, operator: str, node: str) -> None:
    """One parses and has no kernel, the other has no plugin; both name the node and its layer."""
    with pytest.raises(UnsupportedNodeError, match=f"node {node}.*of layer find"):
        build_plan(trt, boxes_model(operator), PlanOptions(compute_capabilities=("8.0",)))


@pytest.mark.parametrize(
    "options",
    [
        PlanOptions(compute_capabilities=("8.7",)),
        PlanOptions(compute_capabilities=("8.0",), timing_cache=b"x"),
        PlanOptions(hardware_compatibility="NO_SUCH_LEVEL"),
    ],
)
def test_options_that_the_library_lacks_are_refused(trt: Any, fp16_model: bytes, options: PlanOptions) -> None:
    with pytest.raises(UsageError):
        build_plan(trt, fp16_model, options)


@pytest.mark.parametrize(
    "profile", [{"x": ((1, 3), (2, 3), (1, 3))}, {"x": ((1,), (1, 3), (1, 3))}, {"x": ((0, 3), (2, 3), (4, 3))}]
)
def test_profiles_that_cannot_be_are_refused(profile: Any) -> None:
    with pytest.raises(UsageError, match="profile of x"):
        PlanOptions(profiles=(profile,))


def test_a_workspace_below_one_mebibyte_is_refused() -> None:
    with pytest.raises(UsageError, match="workspace"):
        PlanOptions(workspace_mib=0)


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["8.0", "8.6", "8.9"])
def test_our_own_vision_transformer_is_int8_with_fused_attention(trt: Any, chain: Chain, capability: str) -> None:
    """Every quantized layer of an exported ViT has INT8 in, every block one fused attention."""
    exported = chain.artifact("export")
    layers = tuple(Layer(**layer) for layer in exported.read_json("layers.json"))
    workload = Workload.from_json(exported.read_json("workload.json"))
    shapes = tuple((size, *workload.input_shape) for size in (1, 8, 32))
    options = PlanOptions(profiles=({"pixel_values": shapes},), compute_capabilities=(capability,))  # type: ignore[dict-item]
    receipt = receipt_of(build_plan(trt, exported.read("model.fp16.onnx"), options), layers, OnnxFacts.of(workload))
    by_source = {name: row for row in receipt.layers for name in row.sources}
    quantized = [layer.name for layer in layers if layer.int8]
    assert len(quantized) == 13
    for name in quantized:
        assert by_source[name].precision == "int8", name
        assert by_source[name].input_types == ("Int8",), name
    assert receipt.totals is not None
    assert receipt.shares is not None
    assert receipt.totals.fused_attentions == 2
    assert receipt.shares.int8 > 0.99
    assert {layer.state for layer in receipt.pruned} == {"unknown"}
    assert not [finding for finding in receipt.findings if finding.severity != "note"]
    judge(receipt)
    with pytest.raises(SparseShareError, match="not shown"):
        judge(receipt, 0.5)
    json.dumps(receipt.model_dump(mode="json"))


def boxes_model(operator: str) -> bytes:
    """Boxes [1, 8, 4] and scores [1, 2, 8] into one node called find/OPERATOR."""
    import onnx
    from onnx import TensorProto, helper

    domain = "" if operator == "NonMaxSuppression" else "nowhere"
    node = helper.make_node(operator, ["boxes", "scores"], ["found"], name=f"find/{operator}", domain=domain)
    inputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 8, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 2, 8]),
    ]
    graph = helper.make_graph(
        [node], "boxes", inputs, [helper.make_tensor_value_info("found", TensorProto.INT64, ["n", 3])]
    )
    sets = [helper.make_opsetid("", 21), helper.make_opsetid("nowhere", 1)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=sets, ir_version=10)
    return model.SerializeToString(deterministic=True)
