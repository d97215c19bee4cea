"""Builds give the verdicts that they should, and one that failed says why.

Recorded from a tool: the TensorRT-RTX logs (INT8 not fused, FP32, INT8, failing parse), the text dump, and the logs of
too little device memory and of a TensorRT 8 build that picked no sparse kernel. Written by hand after public excerpts:
sparse chosen, eligible but dense, reformat-heavy, "found 39, chose 0". See recorded/README.md for each source.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpusq.engines.receipts import (
    OnnxFacts,
    judge,
    refused_receipt,
)
from gpusq.engines.tensorrt import PlanOptions
from gpusq.engines.tensorrt.refusals import build_refusal, parse_refusal
from gpusq.errors import (
    BuildMemoryError,
    EngineError,
    PrecisionError,
    SparseShareError,
    UnsupportedNodeError,
)
from tests.engines.recordings import BLOCK, STAGE, TWO, kinds, receipt, states, text


def test_sparse_chosen() -> None:
    found = receipt("trt10_sparse_chosen", BLOCK, timed=True)
    assert states(found) == {
        "attention.q": "chosen",
        "attention.k": "chosen",
        "attention.v": "chosen",
        "attention.o": "lost on time",
        "mlp.fc1": "chosen",
        "mlp.fc2": "chosen",
    }
    assert found.shares is not None
    assert found.shares.basis == "time"
    # q, k and v are one kernel of 30 us, fc1 40, fc2 38; o 12 dense; the head 5: 108 of 125
    assert found.shares.sparse == pytest.approx(108 / 125)
    assert found.shares.int8 == pytest.approx(120 / 125)
    assert (found.shares.sparse_hidden, found.shares.full_float) == (0, 0)
    assert kinds(found) == {"sparse lost": "warn"}
    lines = judge(found, 0.5, require_int8=0.9)
    assert any("86% sparse, 96% INT8 of the GEMM time" in line for line in lines)
    assert any("5 chosen, 1 lost on time" in line for line in lines)
    with pytest.raises(
        SparseShareError, match=r"at least 90%.*got 86%.*block.attention.o: dense kernel sm80_xmma_gemm"
    ):
        judge(found, 0.9)


def test_eligible_but_dense() -> None:
    found = receipt("trt8_eligible_dense", STAGE)
    assert states(found) == {"stage.conv1": "lost on time", "stage.conv2": "lost on time"}
    assert (found.log_eligible, found.log_chosen) == (2, 0)
    assert all("dense kernel sm80_xmma_fprop_implicit_gemm" in layer.reason for layer in found.pruned)
    assert found.shares is not None
    assert (found.shares.sparse, found.shares.int8, found.shares.basis) == (0, 1, "weights")
    assert kinds(found)["sparse lost"] == "warn"
    with pytest.raises(SparseShareError, match=r"got 0% .2 lost on time"):
        judge(found, 0.5)
    assert judge(found)  # it is the engine that was asked for, only not a sparse one


def test_int8_not_fused() -> None:
    found = receipt("rtx_int8_not_fused", TWO)
    assert [row.precision for row in found.layers if row.sources] == ["fp16", "fp16"]
    assert kinds(found)["int8 not fused"] == "fail"
    with pytest.raises(PrecisionError, match="2 of 2 quantized layers do not run in INT8"):
        judge(found)
    fused = receipt("rtx_int8", TWO)
    assert [row.precision for row in fused.layers if row.sources] == ["int8", "int8"]
    assert "int8 not fused" not in kinds(fused)
    assert judge(fused, require_int8=1.0)


def test_fp32_fallback() -> None:
    layers = tuple(replace(layer, int8=False, sparse=False) for layer in TWO)
    found = receipt("rtx_fp32", layers)
    assert [row.precision for row in found.layers if row.sources] == ["fp32", "fp32"]
    assert kinds(found) == {"fp32 fallback": "fail"}
    with pytest.raises(PrecisionError, match="2 weighted layers run in full float, 100% of the weights"):
        judge(found)
    meant = receipt("rtx_fp32", layers, facts=OnnxFacts(float_layers=frozenset({"block.fc1", "block.fc2"})))
    assert kinds(meant) == {}
    assert judge(meant)


def test_reformat_heavy() -> None:
    layers = tuple(replace(layer, sparse=False) for layer in STAGE)
    found = receipt("trt10_reformat_heavy", layers, timed=True)
    assert found.totals is not None
    assert (found.totals.reformats, found.totals.gemms) == (6, 3)
    assert found.totals.reformat_us == pytest.approx(2553.0)
    assert kinds(found) == {"reformat heavy": "warn"}
    (line, *_) = judge(found)
    assert "6 layers only move or convert data" in line
    assert "60% of the time" in line
    untimed = receipt("trt10_reformat_heavy", layers)
    assert kinds(untimed) == {"reformat heavy": "warn"}


def test_failing_parse() -> None:
    class Error:
        def desc(self) -> str:
            return text("rtx_failing_parse.log").splitlines()[-1].removeprefix("[6] ")

        def node_name(self) -> str:
            return "block.post/TRTBatchedNMS"

        def node_operator(self) -> str:
            return "TRTBatchedNMS"

    class Parser:
        num_errors = 1

        def get_error(self, index: int) -> Error:
            return Error()

    error = parse_refusal(Parser(), text("rtx_failing_parse.log").splitlines(), "tensorrt_rtx")
    assert isinstance(error, UnsupportedNodeError)
    assert "node block.post/TRTBatchedNMS (TRTBatchedNMS) of layer block.post" in error.what
    assert "Plugin not found" in error.got
    found = refused_receipt("tensorrt_rtx", "1.7.1.116", "0" * 64, PlanOptions(), error)
    assert (found.layers, found.shares, found.plan_sha256) == ((), None, None)
    with pytest.raises(EngineError, match=r"block.post.*Plugin not found.*register the plugin"):
        judge(found, 0.5)


def test_a_parser_that_names_no_node_has_named_it_in_the_log() -> None:
    class Error:
        def desc(self) -> str:
            return "Plugin not found"

    class Parser:
        num_errors = 1

        def get_error(self, index: int) -> Error:
            return Error()

    lines = text("rtx_failing_parse.log").splitlines()
    assert "node block.post/TRTBatchedNMS (TRTBatchedNMS)" in parse_refusal(Parser(), lines, "tensorrt").what
    eight = [
        'While parsing node number 7 [Round -> "y:0"]:',
        "--- Begin node ---",
        'name: "block/Round"',
        'op_type: "Round"',
    ]
    assert "node block/Round (Round) of layer block" in parse_refusal(Parser(), eight, "tensorrt").what
    assert "node y:0 (Round)" in parse_refusal(Parser(), eight[:1], "tensorrt").what
    assert "ONNX file" in parse_refusal(Parser(), ["nothing"], "tensorrt").what


@pytest.mark.parametrize(
    ("lines", "kind", "words"),
    [
        ([text("trt10_device_out_of_memory.log")], BuildMemoryError, "memory of the device.*15485030400"),
        (["std::bad_alloc"], BuildMemoryError, "memory of this machine.*held 7 MiB"),
        (
            ["IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any implementation for "
             "node {ForeignNode[block.fc1/MatMul...block.fc2/MatMul]}.)"],
            UnsupportedNodeError,
            "of layer block.fc1.*torch-tensorrt",
        ),
        (["something else"], EngineError, "something else"),
        ([], EngineError, "no message"),
    ],
)  # fmt: skip
def test_why_a_build_failed(lines: list[str], kind: type[EngineError], words: str) -> None:
    error = build_refusal(lines, lines, "tensorrt", 7.0)
    assert type(error) is kind
    with pytest.raises(kind, match=words):
        raise error
