"""The ahead-of-time check: layer dumps are read right, refusals and crashes are typed, and a real build is INT8."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpusq.engines import tensorrt_rtx
from gpusq.engines.rtx_layers import RtxCheck, parse_layers
from gpusq.engines.tensorrt_rtx import check_build
from gpusq.errors import EngineError, MissingExtraError

INSTALLED = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="needs the rtx extra: pip install 'gpusq[rtx]'"
)
PROFILE = {"pixel_values": ((1, 3, 4, 4), (2, 3, 4, 4), (8, 3, 4, 4))}


def tensor(datatype: str) -> str:
    return f"[ {{ Name: t, Dimensions: [-1,8], Strides: [8,1], Datatype: {datatype}, Format: (Linear) Row major }}]"


def line(name: str, kind: str, inputs: str, constants: str, nodes: list[str]) -> str:
    metadata = "".join(f"[ONNX Layer: {node}]" for node in nodes)
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: {tensor(inputs)}, Constants: {tensor(constants)}, "
        f"Outputs: {tensor('Half')}, TacticName: STUB, StreamId: 0, Metadata: {metadata}"
    )


DUMP = "\n".join(
    [
        "Layers:",
        "Name: s, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata: ",
        line("qkv", "gemm", "Int8", "Int8", ["a.q/MatMul", "a.q/weight_DequantizeLinear", "a.k/MatMul"]),
        line("_gemm_mha_v2_myl0_8", "kgen", "Half", "Half", ["a/MatMul", "a/Softmax", "a/MatMul_2"]),
        line("head", "gemm", "Half", "Half", ["head/Gemm"]),
        "",
        "I/O Tensors:",
        " Name: logits, IOMode: Output",
    ]
)


def test_layers_are_read_by_node_name() -> None:
    layers = parse_layers(DUMP)
    assert [layer.type for layer in layers] == ["shape_call", "gemm", "kgen", "gemm"]
    check = RtxCheck("8.0", True, 1.0, 10, layers)
    assert check.int8_gemms == ("a.k/MatMul", "a.q/MatMul")
    assert check.fused_attention == 1
    assert check.not_int8(["a.q/MatMul", "head/Gemm", "gone/MatMul"]) == ("head/Gemm", "gone/MatMul")
    assert (layers[1].inputs, layers[1].constants, layers[1].outputs) == (("Int8",), ("Int8",), ("Half",))


def test_json_round_trip() -> None:
    check = RtxCheck("8.6", True, 1.5, 10, parse_layers(DUMP), ("e",))
    assert RtxCheck.from_json(json.loads(json.dumps(check.to_json()))) == check
    assert check.without_times().seconds == 0.0


def test_text_that_is_no_dump_gives_no_layers() -> None:
    assert parse_layers("") == parse_layers("Layers:\nnothing here") == ()


def test_absent_library_is_a_missing_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"\.\[rtx\]"):
        check_build(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "open(sys.argv[1] + '/log.txt', 'w').write('one\\ntwo\\n'); os.abort()",
            "exit status -6; last log lines: one | two",
        ),
        ("sys.exit(3)", "exit status 3; last log lines: none"),
        ("sys.stderr.write('why')", "why"),
        ("time.sleep(60)", "no answer within 1 s"),
    ],
    ids=["abort", "status", "no result", "hang"],
)
def test_a_crash_or_a_hang_is_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, message: str) -> None:
    def command(onnx_path: Path, capability: str, profile: object, directory: Path) -> list[str]:
        return [sys.executable, "-c", f"import os, sys, time; {code}", str(directory)]

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(tensorrt_rtx, "child_command", command)
    with pytest.raises(EngineError) as caught:
        check_build(tmp_path / "m.onnx", ("8.0",), timeout_s=1 if "sleep" in code else 30)
    assert message in str(caught.value)


@INSTALLED
def test_a_real_build_runs_the_quantized_layer_in_int8(fp16_model: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(fp16_model)
    checks = check_build(tmp_path / "model.onnx", profile=PROFILE)
    assert [(check.capability, check.ok, check.errors) for check in checks] == [("8.0", True, ()), ("8.6", True, ())]
    for check in checks:
        assert check.plan_bytes > 0
        assert check.not_int8(["fc1/MatMul", "fc2/MatMul"]) == ("fc2/MatMul",)


@INSTALLED
@pytest.mark.parametrize(
    ("damage", "message"), [({"zero_point": 3}, "zero"), ({"float_bias": True}, "types"), (None, "")], ids=str
)
def test_a_refusal_is_a_check_that_is_not_ok(
    make_model: Callable[..., bytes], tmp_path: Path, damage: dict[str, Any] | None, message: str
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nothing" if damage is None else make_model(half=True, **damage))
    (check,) = check_build(tmp_path / "model.onnx", ("8.0",), PROFILE)
    assert not check.ok
    assert check.layers == ()
    assert message in " ".join(check.errors).lower()
    assert check.errors
