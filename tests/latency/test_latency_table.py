"""Tables of questions: order and kinds kept, answers as the predictor gives them, each slip named with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpusq.errors import TableError, UnknownTargetError, UsageError
from gpusq.latency import encoder_layers, encoder_workload, predict
from gpusq.latency.forms import predict_form, standing_in
from gpusq.latency.predict import predict_gemm
from gpusq.latency.table import Question, answer, answer_all, answered_rows, columns_of, read_questions
from gpusq.targets import load_target

GEMM = "kind,device,dtype,sparsity,m,n,k"
ENCODER = "kind,device,dtype,sparsity,layers,width,heads,mlp,tokens,batch"
UNION = "kind,device,dtype,sparsity,m,n,k,layers,width,heads,mlp,tokens,batch"


def table(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_mixed_kinds_keep_their_order_and_columns(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        UNION + ",note",
        "gemm,a100-40gb,int8,2:4,197,3072,768,,,,,,,first",
        "encoder,h100-pcie,fp8,dense,,,,12,768,12,3072,197,8,",
        "",
        "GEMM, A100-80GB-PCIe ,BF16,Dense,64,64,64,,,,,,",
    )
    rows = answered_rows(found := read_questions(path), answer_all(found))
    assert [row["kind"] for row in rows] == ["gemm", "encoder", "gemm"]
    assert rows[0]["note"] == "first"
    assert (rows[0]["m"], rows[0]["n"], rows[0]["k"]) == (197, 3072, 768)
    assert "m" not in rows[1]
    assert rows[1]["batch"] == 8
    for row in rows:
        assert 0 < row["low_us"] < row["latency_us"] < row["high_us"]
        assert row["bound"] in ("compute", "memory", "launch")
    assert columns_of(rows)[-4:] == ["latency_us", "low_us", "high_us", "bound"]


def test_a_path_that_was_only_scaled_says_so(tmp_path: Path) -> None:
    path = table(tmp_path, GEMM, "gemm,a100,int4,dense,8,8,8", "gemm,a100,int8,dense,8,8,8")
    rows = answered_rows(found := read_questions(path), answer_all(found))
    assert [row.get("scaled") for row in rows] == [True, None]
    assert columns_of(rows)[-2:] == ["bound", "scaled"]


def test_a_second_header_begins_a_new_kind(tmp_path: Path) -> None:
    path = table(tmp_path, GEMM, "gemm,a100,fp16,dense,8,8,8", ENCODER, "encoder,a100,fp16,dense,1,64,1,256,10,1")
    assert [question.kind for question in read_questions(path)] == ["gemm", "encoder"]


def test_a_gemm_is_the_predictors_own_answer() -> None:
    target = load_target("h100-pcie")
    expected = predict_gemm(target, "int8", "2:4", 197, 3072, 768)
    found = answer(Question("gemm", "h100-pcie", "int8", "2:4", (197, 3072, 768), {}, ""))
    assert (found.us, found.low_us, found.high_us, found.bound) == (
        expected.us, expected.low_us, expected.high_us, expected.bound,
    )  # fmt: skip


@pytest.mark.parametrize(("dtype", "int8"), [("fp16", False), ("int8", True)])
@pytest.mark.parametrize("sparsity", ["dense", "2:4"])
def test_an_encoder_is_the_whole_models_prediction(dtype: str, int8: bool, sparsity: str) -> None:
    workload = encoder_workload(12, 768, 12, 3072, 197)
    layers = encoder_layers(workload, sparse=sparsity == "2:4", int8=int8)
    expected = predict(workload, layers, load_target("a100"), 8, int8_attention=int8)
    found = answer(Question("encoder", "a100", dtype, sparsity, (12, 768, 12, 3072, 197, 8), {}, ""))
    assert found.us == pytest.approx(1e3 * expected.latency_ms)
    assert found.high_us == pytest.approx(1e3 * expected.high_ms)


@pytest.mark.parametrize("target", ["a100", "h100-pcie", "agx-orin"])
def test_bf16_models_run_on_bf16_facts(target: str) -> None:
    device = load_target(target)
    stand = standing_in(device, "bf16")
    assert stand.peak("fp16", "2:4") == device.peak("bf16", "2:4")
    assert stand.fit_of("fp16") == device.fit_of("bf16")
    workload = encoder_workload(2, 768, 12, 3072, 197)
    assert predict_form(workload, device, 8, "bf16", "dense").precision == "bf16"


def test_fp8_models_need_a_device_that_has_it() -> None:
    workload = encoder_workload(2, 768, 12, 3072, 197)
    assert predict_form(workload, load_target("h100-pcie"), 8, "fp8", "2:4").latency_ms > 0
    with pytest.raises(UsageError, match="fp8"):
        predict_form(workload, load_target("a100"), 8, "fp8", "dense")
    with pytest.raises(UsageError, match="int4"):
        predict_form(workload, load_target("a100"), 8, "int4", "dense")


SLIPS = [
    (f"{GEMM}\n", TableError, r"rows\.csv has a header and at least one row"),
    ("\n\n", TableError, "at least one row"),
    ("kind,device,dtype,sparsity,m,n\ngemm,a100,fp16,dense,1,2\n", TableError, r"the header \(line 1\) has a column k"),
    (f"{GEMM}\ngemm,a100,fp16,dense,1,2,x\n", TableError, "line 2, column k"),
    (f"{GEMM}\ngemm,a100,fp16,dense,1,2,4\ngemm,a100,fp16,dense,1.5,2,4\n", TableError, "line 3, column m"),
    (f"{GEMM}\ngemm,a100,fp16,dense,0,2,4\n", TableError, "line 2, column m"),
    (f"{GEMM}\ngemm,a100,fp16,dense,-8,2,4\n", TableError, "line 2, column m"),
    (f"{GEMM}\ngemm,a100,fp16,dense,nan,2,4\n", TableError, "line 2, column m"),
    (f"{GEMM}\ngemm,a100,fp16,dense,16777217,2,4\n", TableError, "from 1 to 16777216"),
    (f"{GEMM}\ngemm,a100,fp16,dense,,2,4\n", TableError, "line 2, column m is filled"),
    (f"{GEMM}\nconv,a100,fp16,dense,1,2,4\n", TableError, "line 2, column kind"),
    (f"{GEMM}\ngemm,a100,fp61,dense,1,2,4\n", TableError, "column dtype.*nearest: fp16"),
    (f"{GEMM}\ngemm,a100,fp16,4:2,1,2,4\n", TableError, "column sparsity"),
    (f"{GEMM}\ngemm,a10,fp16,dense,1,2,4\n", UnknownTargetError, "line 2, column device.*use one of: a100"),
    (f"{GEMM}\ngemm,a100,fp8,dense,1,2,4\n", UsageError, "line 2, column dtype"),
    (f"{GEMM}\ngemm,a100,fp16,2:4,1,2,6\n", UsageError, "line 2, column sparsity.*divisible by 4"),
    (f"{GEMM}\ngemm,a100,fp16,dense,1,2,4,5\n", TableError, "line 2 has 7 cells"),
    (f"{GEMM},m\ngemm,a100,fp16,dense,1,2,4,5\n", TableError, "m twice"),
    (f"{ENCODER}\nencoder,a100,fp16,dense,12,770,12,3072,197,8\n", UsageError, "column width"),
    (f"{ENCODER}\nencoder,a100,fp16,dense,99999,768,12,3072,197,8\n", UsageError, "column layers"),
    (f"{ENCODER}\nencoder,a100,int4,dense,12,768,12,3072,197,8\n", UsageError, "column dtype"),
]


@pytest.mark.parametrize(("text", "kind", "message"), SLIPS)
def test_slips_are_named_with_their_place(tmp_path: Path, text: str, kind: type[Exception], message: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(kind, match=message):
        read_questions(path)


def test_other_encodings_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"kind,device\xff")
    with pytest.raises(TableError, match="UTF-8"):
        read_questions(path)
    with pytest.raises(TableError, match="must be readable"):
        read_questions(tmp_path / "absent.csv")


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"{GEMM}\ngemm,a100,fp16,dense,8,8,8\n", encoding="utf-8-sig")
    assert len(read_questions(path)) == 1


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_is_answered_or_refused_with_a_type(tmp_path_factory: pytest.TempPathFactory, a: str, b: str) -> None:
    path = tmp_path_factory.mktemp("any") / "rows.csv"
    path.write_text(f"{GEMM}\n{a}\n{b}\n", encoding="utf-8", errors="replace")
    with pytest.raises((TableError, UsageError)):
        read_questions(path)
