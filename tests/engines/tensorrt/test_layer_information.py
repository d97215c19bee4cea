"""Layer information of several versions becomes the same plain layers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpusq.engines.rtx_layers import parse_layers
from gpusq.engines.tensorrt import layers_of, read_profile
from gpusq.engines.tensorrt.dump import parse_dump
from gpusq.engines.tensorrt.engine_layer import EngineLayer, layer_from_fields
from gpusq.engines.tensorrt.inspector import parse_inspector
from gpusq.engines.tensorrt.tactic import is_sparse_tactic, precision_of_operands, precision_of_tactic
from gpusq.errors import EngineError
from tests.engines.recordings import recorded_plan, text

DUMP = recorded_plan("rtx_int8").layer_dump


def test_a_dump_of_tensorrt_rtx_is_read_whole() -> None:
    layers = parse_dump(DUMP)
    assert [(layer.role, layer.precision) for layer in layers if layer.role == "gemm"] == [("gemm", "int8")] * 2
    first = next(layer for layer in layers if layer.role == "gemm")
    assert first.gemm_nodes == ("block.fc1/MatMul",)
    assert [t.datatype for t in first.inputs] == ["Int8"]
    assert [t.datatype for t in first.constants] == ["Int8", "Float", "Float"]
    assert first.constants[0].dimensions == (64, 64)
    assert first.outputs[0].format == "(Linear) Row major linear format"
    assert first.sparse_tactic is None


def test_both_readers_of_the_dump_agree() -> None:
    ours, theirs = parse_dump(DUMP), parse_layers(DUMP)
    assert [layer.name for layer in ours] == [layer.name for layer in theirs]
    for layer, other in zip(ours, theirs, strict=True):
        assert layer.nodes == other.nodes
        assert layer.tactic == other.tactic
        for mine, kinds in ((layer.inputs, other.inputs), (layer.outputs, other.outputs)):
            assert sorted({t.datatype for t in mine}) == list(kinds)


def test_a_text_dump_of_tensorrt_10_has_one_field_for_format_and_type() -> None:
    (layer,) = parse_dump(text("trt10_text_dump.log"))
    assert layer.gemm_nodes == ("/encoder/layers.10/pos_ff/output/MatMul",)
    assert (layer.role, layer.precision, layer.sparse_tactic) == ("gemm", "fp16", False)
    assert layer.inputs[0].dimensions == (1, 40, 1024)


def test_a_name_with_mha_in_it_is_no_fused_attention() -> None:
    gemm = EngineLayer("/mha/attn/query/MatMul_myl0_79", "gemm")
    assert gemm.role == "gemm"
    assert EngineLayer("_gemm_mha_v2_myl0_8", "kgen").role == "attention"


def test_the_json_of_tensorrt_8_and_10() -> None:
    found = layers_of(recorded_plan("trt8_eligible_dense"))
    assert [layer.role for layer in found.layers] == ["reformat", "gemm", "gemm", "gemm"]
    assert found.layers[2].gemm_nodes == ("stage.conv1/Conv",)
    assert [layer.sparse_weights for layer in found.layers] == [None, False, True, True]
    assert {layer.precision for layer in found.layers[1:]} == {"int8"}
    assert not found.names_only
    ten = layers_of(recorded_plan("trt10_sparse_chosen")).layers
    assert [layer.sparse_tactic for layer in ten if layer.role == "gemm"] == [True, False, True, True, False]
    assert ten[2].gemm_nodes == ("block.attention.v/MatMul", "block.attention.k/MatMul", "block.attention.q/MatMul")


def test_the_separator_of_metadata_does_not_matter() -> None:
    layer = layer_from_fields(
        {"Name": "a", "LayerType": "gemm", "Metadata": "[ONNX Layer: a/MatMul]\x1e[ONNX Layer: b/Conv]"}
    )
    assert layer.gemm_nodes == ("a/MatMul", "b/Conv")


def test_separate_fields_for_format_and_type() -> None:
    tensor = {"Name": "x", "Datatype": "Int8", "Format": "(Linear) Row major linear format", "Dimensions": [1, 2]}
    layer = layer_from_fields({"Name": "a", "LayerType": "gemm", "Inputs": [tensor]})
    assert (layer.inputs[0].datatype, layer.inputs[0].dimensions) == ("Int8", (1, 2))


def test_dynamic_shapes_hide_the_type_and_nothing_is_guessed() -> None:
    record = {"Name": "x", "Format/Datatype": "N/A due to dynamic shapes"}
    layer = layer_from_fields({"Name": "a", "LayerType": "gemm", "Inputs": [record]})
    assert layer.precision == "unknown"


def test_names_without_details_are_said_to_be_that() -> None:
    found = parse_inspector(json.dumps({"Layers": ["Conv_0 + Relu_1", "Gemm_2"], "Bindings": []}))
    assert found.names_only
    assert [layer.name for layer in found.layers] == ["Conv_0 + Relu_1", "Gemm_2"]


@pytest.mark.parametrize("wrong", ["", "[]", "{}", "null", '{"Layers": 3}', "[" * 100_000])
def test_other_text_is_refused(wrong: str) -> None:
    with pytest.raises(EngineError):
        parse_inspector(wrong)


@given(st.integers(0, len(DUMP)))
def test_a_dump_that_was_cut_off_gives_the_layers_before_the_cut(at: int) -> None:
    whole, part = parse_dump(DUMP), parse_dump(DUMP[:at])
    assert len(part) <= len(whole)
    assert part[:-1] == whole[: max(len(part) - 1, 0)]


@given(st.text())
def test_any_text_is_a_dump_of_some_layers(any_text: str) -> None:
    assert isinstance(parse_dump(any_text), tuple)
    assert isinstance(parse_dump(f"Name: a, LayerType: gemm, Inputs: [ {{ {any_text}"), tuple)


@pytest.mark.parametrize(
    ("tactic", "sparse", "precision"),
    [
        ("sm80_xmma_gemm_i8i8_i8i32_f32_tn_n_tilesize128x128x64_stage4_warpsize2x2x1_tensor16x8x32", False, "int8"),
        ("sm86_xmma_sparse_gemm_i8i8_i8i32_f32_tn_n_tilesize128x64x128_sptensor16x8x64_gelu", True, "int8"),
        ("sm90_xmma_sparse_gemm_i8f16_i8i32_f32_tn_n_tilesize128x64x128", True, "int8"),
        ("sm80_xmma_fprop_avdt_sparse_int8int8_x", True, "int8"),
        ("sm80_xmma_fprop_sparse_conv_interleaved_i8i8_i8i32_f32_nchw_vect_c_32", True, "int8"),
        ("sm80_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize32x32x64", False, "fp16"),
        ("sm80_xmma_gemm_f32f32_tf32f32_f32_nn_n_tilesize128x128x16", False, "tf32"),
        ("sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nchwkcrs_nchw_tilesize", False, "fp32"),
        ("sm80_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64", False, "bf16"),
        ("ampere_h16816gemm_256x128_ldg8_nn_v1", False, "fp16"),
        ("volta_int8_i8816cudnn_int8_128x128_ldg16_relu_small_nt_v1", False, "int8"),
        ("__myelin_CASK_STUB", None, None),
        ("", None, None),
        ("__myl_FcAddCast_0xf2543c36ff9f104bbb1655b0183afb47", None, None),
    ],
)
def test_what_a_kernel_is_called(tactic: str, sparse: bool | None, precision: str | None) -> None:
    assert (is_sparse_tactic(tactic), precision_of_tactic(tactic)) == (sparse, precision)


@pytest.mark.parametrize(
    ("inputs", "weights", "precision"),
    [
        (["Int8"], ["Int8", "Float"], "int8"),
        (["Half"], ["Int8", "Half"], "fp16"),  # INT8 weights alone are widened
        (["Int8", "Half"], ["Int8"], "int8"),  # a residual beside the activation
        (["Int8", "Half"], ["Half"], "fp16"),
        (["Int8"], [], "int8"),
        ([], ["Int8"], "int8"),
        (["Float"], ["Float"], "fp32"),
        ([""], [""], "unknown"),
    ],
)
def test_precision_by_operands(inputs: list[str], weights: list[str], precision: str) -> None:
    assert precision_of_operands(inputs, weights) == precision


def test_profiles_are_read_by_their_medians() -> None:
    times = read_profile(text("trt10_sparse_chosen.profile.json"))
    assert times["_gemm_mha_v2_myl0_3"] == pytest.approx(20.0)
    assert len(times) == 8
    assert read_profile('{"a": 0.5}') == {"a": 500.0}
    twice = json.dumps([{"count": 2}, {"name": "a", "averageMs": 1.0}, {"name": "a", "averageMs": 2.0}])
    assert read_profile(twice) == {"a": 3000.0}
    with pytest.raises(EngineError):
        read_profile('[{"name": "a"}]')
