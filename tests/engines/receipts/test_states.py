"""What becomes of a pruned layer is told from what is shown, and nothing more is claimed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpusq.engines.receipts import (
    OnnxFacts,
    judge,
    receipt_of,
    twin_lines,
)
from gpusq.errors import (
    PrecisionError,
    SparseShareError,
)
from gpusq.workload import Op, Workload
from tests.engines.recordings import BLOCK, STAGE, TWO, kinds, linear, receipt, recorded_plan, states, text


def test_nothing_is_claimed_of_what_tensorrt_rtx_does_not_show() -> None:
    found = receipt("rtx_int8", TWO)
    assert {layer.state for layer in found.pruned} == {"unknown"}
    assert all("on the device" in layer.reason for layer in found.pruned)
    assert found.shares is not None
    assert (found.shares.sparse, found.shares.sparse_hidden) == (0, 1)
    assert kinds(found) == {"sparse not shown": "note"}
    with pytest.raises(SparseShareError, match="0% and 100% not shown"):
        judge(found, 0.01)
    judge(found, 0.0)


def test_a_count_of_zero_chosen_is_enough_to_know_that_all_run_dense() -> None:
    plan = replace(recorded_plan("rtx_int8"), library="tensorrt", messages=(text("trt10_found_39_chose_0.log"),))
    found = receipt_of(plan, TWO)
    assert {row.sparse for row in found.layers if row.sources} == {False}
    assert {layer.state for layer in found.pruned} == {"unknown"}  # of 39 eligible ones it is not said which
    assert all("no sparse kernel was chosen" in layer.reason for layer in found.pruned)


def test_eligible_by_the_log_while_the_kernel_is_hidden() -> None:
    message = "(Sparsity) Found 2 layer(s) eligible to use sparse tactics: block.fc1/MatMul, block.fc2/MatMul"
    plan = replace(recorded_plan("rtx_int8"), library="tensorrt", messages=(message,))
    assert set(states(receipt_of(plan, TWO)).values()) == {"eligible"}
    chosen = "(Sparsity) Chose 1 layer(s) using sparse tactics: block_fc1/MatMul_myl0_3"
    found = receipt_of(replace(plan, messages=(message, chosen)), TWO)
    assert states(found) == {"fc1": "chosen", "fc2": "lost on time"}
    assert [row.sparse for row in found.layers if row.sources] == [True, False]


def test_a_layer_that_the_builder_did_not_count_is_not_eligible() -> None:
    message = "(Sparsity) Found 1 layer(s) eligible to use sparse tactics: block.fc1/MatMul"
    found = receipt_of(replace(recorded_plan("rtx_int8"), library="tensorrt", messages=(message,)), TWO)
    assert states(found) == {"fc1": "eligible", "fc2": "not eligible"}
    assert set(states(receipt_of(replace(recorded_plan("rtx_int8"), sparse=False), TWO)).values()) == {"not eligible"}


def test_a_pruned_layer_that_no_engine_layer_names() -> None:
    found = receipt("rtx_int8", (*TWO, linear("gone", 64, 64)))
    assert {layer.name: layer.reason for layer in found.pruned}["gone"] == "no layer of the engine names its node"


def test_an_engine_without_details_proves_nothing() -> None:
    plan = replace(recorded_plan("trt8_eligible_dense"), inspector_json='{"Layers": ["block + x"], "Bindings": []}')
    found = receipt_of(plan, STAGE)
    assert kinds(found) == {"details missing": "warn", "sparse not shown": "note"}
    assert any("no precision for 3 of 3 layers" in line for line in judge(found))
    with pytest.raises(SparseShareError, match="100% not shown"):
        judge(found, 0.1)
    with pytest.raises(PrecisionError, match="100% not shown"):
        judge(found, require_int8=0.1)


def test_a_block_that_is_one_opaque_layer_is_neither_good_nor_bad() -> None:
    opaque = {"Name": "{ForeignNode[block.fc1/MatMul...block.fc2/MatMul]}", "LayerType": "Myelin", "TacticName": ""}
    plan = replace(recorded_plan("trt8_eligible_dense"), inspector_json=json.dumps({"Layers": [opaque]}), messages=())
    found = receipt_of(plan, TWO)
    assert kinds(found) == {"details missing": "warn", "sparse not shown": "note"}
    assert {layer.state for layer in found.pruned} == {"unknown"}


@pytest.mark.parametrize("timed", [True, False])
def test_what_an_opaque_layer_hides_counts_against_every_share(timed: bool) -> None:
    """One layer of ten is shown to be sparse; nine are in one opaque node, which takes 99 % of the time."""
    kernel = "sm80_xmma_sparse_gemm_i8i8_i8i32_f32_tn_n_tilesize128x128x128"
    int8 = [{"Name": "t", "Format/Datatype": "Int8"}]
    entries = [
        {"Name": "l0/MatMul", "LayerType": "gemm", "Inputs": int8, "Outputs": int8, "TacticName": kernel,
         "Metadata": "[ONNX Layer: l0/MatMul]"},
        {"Name": "{ForeignNode[l1/MatMul...l9/MatMul]}", "LayerType": "Myelin", "TacticName": ""},
    ]  # fmt: skip
    plan = replace(recorded_plan("trt8_eligible_dense"), messages=(), inspector_json=json.dumps({"Layers": entries}))
    times = {"l0/MatMul": 5.0, "{ForeignNode[l1/MatMul...l9/MatMul]}": 495.0} if timed else None
    found = receipt_of(plan, [linear(f"l{i}", 64, 64) for i in range(10)], times_us=times)
    assert found.shares is not None
    shown = 0.01 if timed else 0.1
    assert found.shares.sparse == found.shares.int8 == pytest.approx(shown)
    assert found.shares.sparse_hidden == found.shares.precision_hidden == pytest.approx(1 - shown)
    with pytest.raises(SparseShareError, match="not shown"):
        judge(found, 0.5)
    with pytest.raises(PrecisionError, match="not shown"):
        judge(found, require_int8=0.5)


def test_a_layer_that_does_no_work_is_not_missed() -> None:
    facts = OnnxFacts({"block.fc1": 100, "block.fc2": 100})
    found = receipt("rtx_int8", (*TWO, linear("unused", 64, 64)), facts=facts)
    assert found.shares is not None
    assert (found.shares.basis, found.shares.int8, found.shares.precision_hidden) == ("macs", 1, 0)


def test_an_int8_kernel_that_writes_fp16_says_so_when_it_is_dense() -> None:
    name = "sm80_xmma_gemm_i8f32_i8i32_f32_tn_n_tilesize64x64x64"
    plan = recorded_plan("rtx_int8")
    dump = plan.layer_dump.replace("__myelin_CASK_STUB", name)
    message = "(Sparsity) Found 2 layer(s) eligible to use sparse tactics: block.fc1/MatMul, block.fc2/MatMul"
    found = receipt_of(replace(plan, layer_dump=dump, library="tensorrt", messages=(message,)), TWO)
    assert all("not INT8 out" in layer.reason for layer in found.pruned)
    assert any("quantize the outputs" in finding.do for finding in found.findings)


def test_shares_by_macs_weigh_the_layers() -> None:
    ops = (Op("block.fc1", "gemm", 50, 64, 64), Op("block.fc2", "gemm", 50, 16, 64), Op("block/bmm", "bmm", 1, 1, 1))
    facts = OnnxFacts.of(Workload((3, 8, 8), ops, 1))
    assert facts.macs == {"block.fc1": 204800, "block.fc2": 51200}
    layers = (TWO[0], replace(TWO[1], sparse=False))
    found = receipt("rtx_int8", layers, facts=facts)
    assert found.shares is not None
    assert found.shares.basis == "macs"
    assert found.shares.sparse_hidden == pytest.approx(0.8)


def test_times_beside_the_dense_twin() -> None:
    ours = receipt("trt10_sparse_chosen", BLOCK, timed=True)
    twin = receipt_of(
        recorded_plan("trt10_sparse_chosen"),
        tuple(replace(layer, sparse=False) for layer in BLOCK),
        times_us={row.name: (row.us or 0) * (2 if "fc1" in row.name else 0.5) for row in ours.layers},
    )
    lines = twin_lines(ours, twin)
    assert len(lines) == 4
    assert "block.mlp.fc1: 40.0 us (int8, sparse), twin 80.0 us" in lines[-1]
    assert "2.00x as fast" in lines[-1]
    assert twin_lines(receipt("rtx_int8", TWO), receipt("rtx_int8", TWO)) == ()


@given(st.lists(st.sampled_from(["chosen", "dense", "hidden"]), min_size=1, max_size=6), st.floats(0, 1))
def test_shares_and_judgement_agree(kernels: list[str], require: float) -> None:
    """For any mixture of kernels the shares add up, and the gate opens exactly when enough is shown to be sparse."""
    names = {
        "chosen": "sm80_xmma_sparse_gemm_i8i8_i8i32_f32_tn_n_tilesize128x128x128",
        "dense": "sm80_xmma_gemm_i8i8_i8i32_f32_tn_n_tilesize128x128x64",
        "hidden": "",
    }
    int8 = [{"Name": "t", "Format/Datatype": "Int8"}]
    entries = [
        {
            "Name": f"l{i}/MatMul",
            "LayerType": "gemm",
            "Inputs": int8,
            "Outputs": int8,
            "TacticName": names[kernel],
            "Metadata": f"[ONNX Layer: l{i}/MatMul]",
        }
        for i, kernel in enumerate(kernels)
    ]
    plan = replace(recorded_plan("trt8_eligible_dense"), messages=(), inspector_json=json.dumps({"Layers": entries}))
    found = receipt_of(plan, [linear(f"l{i}", 8, 8) for i in range(len(kernels))])
    assert found.shares is not None
    assert found.shares.sparse == pytest.approx(kernels.count("chosen") / len(kernels))
    assert found.shares.sparse_hidden == pytest.approx(kernels.count("hidden") / len(kernels))
    assert [layer.state == "chosen" for layer in found.pruned] == [kernel == "chosen" for kernel in kernels]
    if found.shares.sparse >= require:
        assert judge(found, require)
    else:
        with pytest.raises(SparseShareError):
            judge(found, require)
