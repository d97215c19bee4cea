"""`gpusq predict` and `gpusq calibrate` as a user runs them: four kinds of input, JSON, CSV, page, refusals."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from gpusq.artifacts import Store
from gpusq.targets import load_target
from tests.chain import Chain
from tests.cli.commands import ROOT, gpusq, gpusq_json
from tests.latency.onnx_files import dense, linear, model, node

ROWS = ROOT / "tests" / "latency" / "a100_rows.csv"


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(linear(), path)
    return path


def refusal(*args: object) -> dict[str, Any]:
    """The error object of a command that is refused, in JSON; its message is the same in words."""
    result = gpusq(*args, "--json")
    error = json.loads(result.stdout)["error"]
    assert result.exit_code == error["exit_code"] > 0
    assert result.exit_code != 70, result.output
    assert error["what"] in result.stderr
    return error


def test_one_gemm_on_several_targets() -> None:
    found = gpusq_json(
        "predict", "--gemm", "197x3072x768", "--dtype", "int8", "--sparsity", "2:4", "-t", "a100", "-t", "agx-orin@30W"
    )
    assert found["status"] == "predicted"
    assert [row["device"] for row in found["rows"]] == ["a100", "agx-orin@30W"]
    for row in found["rows"]:
        assert row["low_us"] < row["latency_us"] < row["high_us"]
        assert (row["m"], row["n"], row["k"], row["sparsity"]) == (197, 3072, 768, "2:4")
    plain = gpusq("predict", "--gemm", "197x3072x768").output
    assert "197x3072x768" in plain
    assert "scaled" not in plain
    assert "scaled" in gpusq("predict", "--gemm", "197x3072x768", "--dtype", "int4").output


def test_a_table_in_and_out(tmp_path: Path) -> None:
    path, out = tmp_path / "rows.csv", tmp_path / "out.csv"
    path.write_text(
        "kind,device,dtype,sparsity,m,n,k,layers,width,heads,mlp,tokens,batch\n"
        "encoder,h100-pcie,bf16,dense,,,,2,768,12,3072,197,8\ngemm,a100-40gb,int8,2:4,197,3072,768,,,,,,\n"
    )
    rows = gpusq_json("predict", path)["rows"]
    assert [row["kind"] for row in rows] == ["encoder", "gemm"]
    assert gpusq("predict", path, "--out", out).exit_code == 0
    written = list(csv.DictReader(out.read_text(encoding="utf-8").splitlines()))
    assert [float(row["latency_us"]) for row in written] == [row["latency_us"] for row in rows]
    assert list(written[0])[-4:] == ["latency_us", "low_us", "high_us", "bound"]
    assert "12 heads" in gpusq("predict", path).output


def test_an_onnx_file_per_layer(onnx_file: Path) -> None:
    found = gpusq_json("predict", onnx_file, "-t", "a100", "-t", "cpu", "-b", 1, "-b", 8)
    assert [(row["device"], row["batch"]) for row in found["rows"]] == [
        ("a100-40gb", 1),
        ("a100-40gb", 8),
        ("cpu", 1),
        ("cpu", 8),
    ]
    operator, rest = found["rows"][0]["operators"]
    assert (operator["name"], rest["name"]) == ("fc", "start and gaps")
    assert "start and gaps" in gpusq("predict", onnx_file).output
    assert operator["low_us"] < operator["us"] < operator["high_us"]
    assert found["rows"][0]["precision"] == "fp32"
    assert gpusq_json("predict", onnx_file, "--base", "fp16")["rows"][0]["precision"] == "fp16"
    assert "1 GEMM layers" in gpusq("predict", onnx_file).output


def test_unknown_operators_are_named(tmp_path: Path) -> None:
    made = model(
        [node("MatMul", ["x", "w"], "a", "fc/MatMul"), node("Magic", ["a"], "y", domain="acme")],
        {"w": dense(8, 16)},
        {"x": ["batch", 5, 8]},
        domains=["acme"],
    )
    onnx.save(made, tmp_path / "m.onnx")
    assert gpusq_json("predict", tmp_path / "m.onnx")["unknown_operators"] == {"acme::Magic": 1}
    assert "acme::Magic x1" in gpusq("predict", tmp_path / "m.onnx").output


def test_an_open_dimension_is_mended_with_shape(tmp_path: Path) -> None:
    made = model([node("MatMul", ["x", "w"], "y", "fc/MatMul")], {"w": dense(8, 16)}, {"x": ["batch", "tokens", 8]})
    onnx.save(made, tmp_path / "m.onnx")
    error = refusal("predict", tmp_path / "m.onnx")
    assert "'tokens'" in error["got"]
    assert "--shape x=1x?x8" in error["do"]
    found = gpusq_json("predict", tmp_path / "m.onnx", "--shape", "x=1x197x8")
    assert found["model"]["macs"] == 197 * 8 * 16


def test_an_artifact_is_predicted_without_its_file(chain: Chain) -> None:
    artifact = chain.artifact("export")
    found = gpusq_json("predict", f"onnx-{artifact.digest[:10]}", "--store", chain.root, "-t", "agx-orin@15W")
    assert found["model"]["kind"] == "onnx"
    rows = [row for row in chain.result.report.rows if row.artifact.digest == artifact.digest and row.target == "cpu"]
    assert {row["batch"] for row in found["rows"]} == {row.batch for row in rows}
    at_full = gpusq_json("predict", artifact.path, "-t", "agx-orin")
    assert at_full["rows"][-1]["latency_us"] < found["rows"][-1]["latency_us"]


def test_break_even_in_words_in_json_and_on_a_page(chain: Chain, tmp_path: Path) -> None:
    path, page = chain.artifact("export").path / "model.fp32.onnx", tmp_path / "page.html"
    a100, found = gpusq_json("predict", path, "--break-even", "-b", 8, "-t", "a100", "-t", "cpu")["decisions"]
    assert a100["examined"] == found["examined"] == [1, 256]
    assert {answer["layer"] for answer in found["layers"]} >= set(found["sparse_does_not_pay"]) != set()  # a CPU
    assert {answer["change"] for answer in found["layers"]} == {"2:4", "INT8"}
    done = gpusq("predict", path, "--break-even", "-b", 8, "-t", "a100", "-t", "cpu", "--html", page)
    assert "does not pay in" in done.output
    assert "sparse-int8 is predicted" in done.output
    text = page.read_text(encoding="utf-8")
    assert "Predicted: where 2:4 and INT8 pay" in text
    assert "predicted, not measured" in text
    assert "sparse does not pay here" in text


@pytest.mark.parametrize(("asked", "precision"), [("auto", "fp16"), ("fp32", "fp32"), ("bf16", "fp16")])
def test_screen_json_and_page_compare_in_one_precision(
    chain: Chain, tmp_path: Path, asked: str, precision: str
) -> None:
    path, page = chain.artifact("export", "dense twin").path / "model.fp32.onnx", tmp_path / "page.html"
    args = ("predict", path, "--break-even", "-b", 8, "--base", asked, "--html", page)
    found = gpusq_json(*args)
    (row,), (decisions,) = found["rows"], found["decisions"]
    assert row["precision"] == precision
    curve = next(p for p in decisions["curves"][f"dense-{precision}"] if p["batch"] == 8)
    assert curve["ms"] == pytest.approx(row["latency_us"] / 1e3, rel=1e-5)
    words, text = " ".join(gpusq(*args).output.split()), page.read_text(encoding="utf-8")
    assert f"dense-{precision}" in text
    assert f"dense-{'fp32' if precision == 'fp16' else 'fp16'}" not in text + words
    note = {"auto": "the file is FP32; --break-even predicts and compares it in FP16", "bf16": "bf16 runs in"}.get(
        asked
    )
    if note is None:
        assert not any("break-even" in line for line in found["notes"])
    else:
        assert any(line.startswith(note) for line in found["notes"])
        assert note in words
        assert note in text
    assert gpusq_json("predict", path, "-b", 8)["rows"][0]["precision"] == "fp32"  # no comparison: as the file has it


REFUSED = [
    (("predict",), "UsageError", "one of"),
    (("predict", "--gemm", "8x8"), "UsageError", "MxNxK"),
    (("predict", "--gemm", "0x8x8"), "UsageError", "from 1 to"),
    (("predict", "--gemm", "-1x8x8"), "UsageError", "from 1 to"),
    (("predict", "--gemm", "8x8x99999999"), "UsageError", "from 1 to"),
    (("predict", "--gemm", "8x8x8", "--dtype", "fp15"), "UsageError", "fp16"),
    (("predict", "--gemm", "8x8x6", "--sparsity", "2:4"), "UsageError", "divisible by 4"),
    (("predict", "--gemm", "8x8x8", "--dtype", "fp8"), "UsageError", "peak for bf16/2:4, bf16/dense, fp16/2:4"),
    (("predict", "--gemm", "8x8x8", "-t", "a10"), "UnknownTargetError", "name"),
    (("predict", "--gemm", "8x8x8", "--break-even"), "UsageError", "takes a model"),
    (("predict", "absent.onnx"), "UnsupportedModelError", "ONNX file"),
    (("predict", "absent.csv"), "TableError", "must be readable"),
    (("predict", "rows.csv", "-t", "a100"), "UsageError", "names its own devices"),
    (("predict", "onnx-123456", "--store", "/nowhere"), "ArtifactNotFoundError", "no store"),
    (("predict", "m.onnx", "--html", "p.html"), "UsageError", "--break-even"),
    (("predict", "m.onnx", "--base", "fp17"), "UsageError", "one of"),
    (("predict", "--gemm", "8x8x8", "-b", "8"), "UsageError", "--batch means nothing beside --gemm"),
    (("predict", "--gemm", "8x8x8", "--base", "fp32"), "UsageError", "--base means nothing beside --gemm"),
    (("predict", "--gemm", "8x8x8", "--all-layers"), "UsageError", "--all-layers means nothing"),
    (("predict", "rows.csv", "-b", "8"), "UsageError", "--batch means nothing beside a .csv"),
    (("predict", "rows.csv", "--dtype", "int8"), "UsageError", "--dtype means nothing beside a .csv"),
    (("predict", "m.onnx", "--dtype", "int8"), "UsageError", "--base names the precision"),
    (("predict", "m.onnx", "--sparsity", "2:4"), "UsageError", "--sparsity means nothing beside a model"),
    (("predict", "m.csv", "--out", "m.csv"), "UsageError", "never overwrites an input"),
    (("predict", "m.csv", "--out", "./m.csv"), "UsageError", "never overwrites an input"),
    (("predict", "m.onnx", "--out", "m.onnx"), "UsageError", "never overwrites an input"),
    (("predict", "m.onnx", "--out", "other.onnx"), "UsageError", "ends in .csv"),
    (("predict", "m.onnx", "--break-even", "--html", "other.onnx"), "UsageError", "ends in .html"),
    (("calibrate", "-t", "a100", "--csv", "points.toml", "--out", "points.toml"), "UsageError", "never overwrites"),
    (("calibrate", "-t", "mine.toml", "--out", "mine.toml"), "UsageError", "never overwrites"),
    (("calibrate", "-t", "nothing", "--out", "x.toml"), "UnknownTargetError", "name"),
    (("calibrate", "-t", "a100", "--csv", "absent.csv", "--out", "x.toml"), "TableError", "must be readable"),
]


@pytest.mark.parametrize(("args", "kind", "words"), REFUSED)
def test_wrong_questions_are_refused_with_a_type(args: tuple[str, ...], kind: str, words: str) -> None:
    error = refusal(*args)
    assert error["type"] == kind
    assert words in error["what"] + error["got"] + error["do"]


def test_a_batch_of_nothing_is_refused_as_json() -> None:
    command = [sys.executable, "-m", "gpusq", "predict", "m.onnx", "-b", "0", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert json.loads(done.stdout)["error"]["exit_code"] == done.returncode == 2


def test_bad_shapes_are_refused(onnx_file: Path) -> None:
    for text in ("x", "x=", "x=1xtwo", "=1x2", "x=0x5x8"):
        assert refusal("predict", onnx_file, "--shape", text)["type"] == "UsageError"


def test_calibrate_from_a_csv(tmp_path: Path) -> None:
    out = tmp_path / "mine.toml"
    found = gpusq_json("calibrate", "-t", "h100-pcie", "--csv", ROWS, "--out", out, "--holdout", 0.5, "--name", "mine")
    assert found["name"] == "mine"
    assert all(path["held_out"] < path["before"] for path in found["paths"])
    assert load_target(str(out)).name == "mine"
    rows = gpusq_json("predict", "--gemm", "197x3072x768", "-t", out)["rows"]
    assert rows[0]["device"] == str(out)
    words = gpusq("calibrate", "-t", "a100-80gb-pcie", "--csv", ROWS, "--out", out, "-q").output
    assert "held out" in words
    paths = gpusq_json("calibrate", "-t", "a100-80gb-pcie", "--csv", ROWS, "--out", out)["paths"]
    kept = [path["key"] for path in paths if path["kept_prior"]]
    assert kept
    assert f"held-out rows: {', '.join(kept)}" in " ".join(words.split())
    assert f"--target {out}" in words


def test_calibrate_without_a_device_says_what_to_do(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a device to calibrate")
    error = refusal("calibrate", "-t", "h200", "--out", tmp_path / "h.toml")
    assert error["type"] == "EngineError"
    assert "--csv" in error["do"]
    assert not (tmp_path / "h.toml").exists()


def test_predict_imports_neither_torch_nor_onnx_for_rows(onnx_file: Path) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from gpusq.cli.main import app; "
        "run = CliRunner().invoke; "
        "assert run(app, ['predict', '--gemm', '8x8x8']).exit_code == 0; print('onnx' in sys.modules); "
        f"assert run(app, ['predict', {str(onnx_file)!r}]).exit_code == 0; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_an_input_is_left_as_it_was_under_every_name_of_it(onnx_file: Path, tmp_path: Path) -> None:
    before, link, hard = onnx_file.read_bytes(), tmp_path / "link.csv", tmp_path / "hard.csv"
    link.symlink_to(onnx_file)
    hard.hardlink_to(onnx_file)
    for out in (onnx_file, link, hard):
        assert refusal("predict", onnx_file, "--out", out)["type"] == "UsageError"
    assert onnx_file.read_bytes() == before
    out = tmp_path / "out.csv"
    for _ in range(2):  # an earlier answer may be replaced
        assert gpusq("predict", onnx_file, "--out", out).exit_code == 0
    assert list(csv.DictReader(out.read_text(encoding="utf-8").splitlines()))


@pytest.mark.parametrize("target", ["a100", "agx-orin@30W", "cpu"])
def test_the_operators_and_the_start_add_up_to_the_model(chain: Chain, target: str) -> None:
    path = chain.artifact("export").path / "model.fp32.onnx"
    for row in gpusq_json("predict", path, "-t", target, "-b", 1, "-b", 8)["rows"]:
        assert sum(op["us"] for op in row["operators"]) == pytest.approx(row["latency_us"], rel=1e-5)
        assert sum(op["share"] for op in row["operators"]) == pytest.approx(1)
        rest = row["operators"][-1]
        assert rest["name"] == "start and gaps"
        assert rest["us"] == pytest.approx(load_target(target).engine.start_us, rel=1e-6, abs=1e-6)


def test_an_artifact_made_for_a_target_is_predicted_there(chain: Chain) -> None:
    engines = [artifact for artifact in Store(chain.root).artifacts() if artifact.manifest.target]
    assert engines
    for artifact in engines:
        found = gpusq_json("predict", artifact.path, "-b", 1)
        assert {row["device"] for row in found["rows"]} == {artifact.manifest.target}
        elsewhere = gpusq_json("predict", artifact.path, "-b", 1, "-t", "h200")
        assert {row["device"] for row in elsewhere["rows"]} == {"h200"}
    unbound = gpusq_json("predict", chain.artifact("export").path, "-b", 1)
    assert {row["device"] for row in unbound["rows"]} == {load_target("a100").name}


def test_a_target_that_is_not_known_here_asks_for_its_file() -> None:
    from gpusq.cli.latency_subjects import Subject
    from gpusq.errors import UnknownTargetError
    from gpusq.workload import Workload

    subject = Subject("bundle 123", "bundle", Workload((3, 8, 8), (), 0), (), target="board-of-mine")
    with pytest.raises(UnknownTargetError, match=r"made for the target board-of-mine.*--target FILE.toml"):
        subject.targets([])
    assert [target.name for target in subject.targets(["h200"])] == ["h200"]


def test_help_and_page_give_both_headers_which_work(tmp_path: Path) -> None:
    gemm = "kind,device,dtype,sparsity,m,n,k"
    encoder = "kind,device,dtype,sparsity,layers,width,heads,mlp,tokens,batch"
    shown = gpusq("predict", "--help").output
    page = (ROOT / "docs" / "latency.md").read_text(encoding="utf-8")
    squeezed = "".join(shown.replace("│", " ").split())
    for header in (gemm, encoder):
        assert header in squeezed
        assert f"    {header}\n" in page
    path = tmp_path / "rows.csv"
    path.write_text(f"{gemm}\ngemm,a100,fp16,dense,8,8,8\n{encoder}\nencoder,a100,fp16,dense,1,64,1,256,10,1\n")
    assert [row["kind"] for row in gpusq_json("predict", path)["rows"]] == ["gemm", "encoder"]


def test_slips_of_a_table_say_what_to_write(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("device,dtype,sparsity,m,n,k\na100,fp16,dense,8,8,8\n")
    assert "the header (line 1) has a column kind" in refusal("predict", path)["what"]
    path.write_text("kind,device,dtype,sparsity,m,n,k\nfoo,a100,fp16,dense,8,8,8\n")
    error = refusal("predict", path)
    assert "gemm, encoder" in error["what"]
    assert error["do"] == "write gemm or encoder"
    path.write_text("kind,device,dtype,sparsity,m,n,k\ngem,a100,fp16,dense,8,8,8\n")
    assert refusal("predict", path)["do"] == "nearest: gemm"


def test_a_holdout_that_holds_nothing_out_is_refused(tmp_path: Path) -> None:
    path, out = tmp_path / "points.csv", tmp_path / "mine.toml"
    path.write_text("gpu,dtype,sparsity,m,n,k,latency_us\nA100,fp16,dense,512,512,512,30\n")
    error = refusal("calibrate", "-t", "a100", "--csv", path, "--out", out, "--holdout", 0.9)
    assert "fp16/dense: 1 row" in error["got"]
    assert not out.exists()
    found = gpusq_json("calibrate", "-t", "a100", "--csv", path, "--out", out)
    assert "nothing was fitted" in found["held_out_by"]


def test_rows_of_another_gpu_are_counted(tmp_path: Path) -> None:
    path, out = tmp_path / "points.csv", tmp_path / "mine.toml"
    rows = ["A100,fp16,dense,512,512,512,30", *["V100,fp16,dense,64,64,64,9"] * 2, "A10,fp16,dense,64,64,64,9"]
    path.write_text("\n".join(["gpu,dtype,sparsity,m,n,k,latency_us", *rows, ""]))
    args = ("calibrate", "-t", "a100", "--csv", path, "--out", out)
    note = "3 rows of other GPUs were left out: 1 of A10, 2 of V100"
    assert gpusq_json(*args)["notes"] == [note]
    assert note in " ".join(gpusq(*args).output.split())
    assert note in out.read_text(encoding="utf-8")
