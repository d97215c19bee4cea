"""What the commands print, in words and in JSON, and what they leave in the store."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from gpusq.artifacts import Store
from gpusq.reports import Row
from tests.chain import FAST, Chain, quick_timings, tree
from tests.cli.commands import ROOT, gpusq, gpusq_json, start

SETTINGS = [part for setting in FAST for part in ("--set", setting)]
TARGETS = ["--target", "cpu", "--target", "a100", "--target", "agx-orin"]


@pytest.fixture
def store(chain: Chain, tmp_path: Path) -> Path:
    """A copy of the finished run's store."""
    return chain.copy(tmp_path / "store").root


def compress(chain: Chain, store: Path, *more: object) -> Any:
    with quick_timings():
        return gpusq("compress", "-m", "new:vit-test", "-d", chain.images, *SETTINGS, *TARGETS, "--store", store, *more)


# ---- compress ----


def test_compress_prints_one_json_object(chain: Chain, store: Path) -> None:
    result = compress(chain, store, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert set(found) == {"artifacts", "reports", "verdict"}
    steps = [(s.done.artifact.digest, str(store / "artifacts" / s.done.artifact.path.name)) for s in chain.result.steps]
    assert [(a["digest"], a["path"]) for a in found["artifacts"]] == steps
    assert all({"stage", "kind", "digest", "path"} <= a.keys() and a["reused"] for a in found["artifacts"])
    assert {v["target"] for v in found["verdict"]} == {"cpu", "a100-40gb", "agx-orin-64gb"}


def test_the_rows_follow_the_published_schema(chain: Chain, store: Path) -> None:
    schema = json.loads((ROOT / "gpusq" / "reports" / "report.schema.json").read_text())
    row_schema = {"$defs": schema["$defs"], **schema["properties"]["rows"]["items"]}
    rows = json.loads(compress(chain, store, "--json").stdout)["reports"]
    assert len(rows) == 3 * (3 * 5 + 2 * 3)
    for row in rows:
        Draft202012Validator(row_schema).validate(row)
        Row.model_validate(row)
    spoiled = {**rows[0], "status": "guessed"}
    assert list(Draft202012Validator(row_schema).iter_errors(spoiled))


def test_compress_prints_a_table_and_writes_what_is_asked(chain: Chain, store: Path, tmp_path: Path) -> None:
    html, report = tmp_path / "out" / "report.html", tmp_path / "out" / "report.json"
    result = compress(chain, store, "--html", html, "--report", report)
    assert result.exit_code == 0, result.output
    assert "a100-40gb" in result.stdout
    assert html.read_text().startswith("<!doctype html>") or "<html" in html.read_text()[:200]
    assert len(json.loads(report.read_text())["rows"]) == 63
    shown = gpusq("report", "--store", store)
    assert result.stdout.startswith(shown.stdout)
    lines = result.stdout[len(shown.stdout) :].splitlines()
    assert [line.split(":")[0] for line in lines] == ["on a100-40gb", "on agx-orin-64gb"]
    for line in lines:  # the bundle of the model and that of its twin, as they lie in the store
        words = line.split()
        bundle, twin = Path(words[words.index("build") + 1]), Path(words[words.index("--twin") + 1])
        assert (bundle / "bundle.json").is_file()
        assert (twin / "bundle.json").is_file()
        assert any(layer["sparse"] for layer in json.loads((bundle / "layers.json").read_text()))
        assert not any(layer["sparse"] for layer in json.loads((twin / "layers.json").read_text()))


def test_require_ship_ends_with_one_where_it_does_not_ship(chain: Chain, store: Path) -> None:
    assert not chain.result.ships, "fresh weights and moments of timing give no reason to ship"
    assert compress(chain, store, "--require-ship", "--quiet").exit_code == 1


def test_a_recipe_file_and_the_command_line(chain: Chain, store: Path, tmp_path: Path) -> None:
    """The same parameters from a file: the same keys, so everything is reused; options win over the file."""
    from dataclasses import replace

    from gpusq.recipe import dump_recipe

    path = tmp_path / "mine.toml"
    path.write_text(dump_recipe(replace(chain.recipe, data="/nowhere")))
    with quick_timings():
        found = gpusq_json("compress", "--recipe", path, "--data", chain.images, "--store", store)
    assert all(a["reused"] for a in found["artifacts"])


def test_progress_goes_to_standard_error_and_quiet_silences_it(chain: Chain, store: Path) -> None:
    dense = chain.artifact("intake").digest[:12]
    command = ("prune", dense, "--data", chain.images, "--epochs", "0", "--calibration-images", "16", "--store", store)
    loud = gpusq(*command, "--seed", 1)
    assert "prune: masks" in loud.stderr
    assert loud.stdout.startswith("sparse ")
    assert len(loud.stdout.splitlines()) == 1
    quiet = gpusq(*command, "--seed", 2, "--quiet")
    assert (quiet.exit_code, quiet.stderr) == (0, "")
    again = gpusq(*command, "--seed", 2)
    assert "reused" in again.stdout


# ---- stages one at a time ----


@pytest.mark.slow
def test_stage_by_stage_gives_the_artifacts_of_compress(chain: Chain, tmp_path: Path) -> None:
    root, recipe = tmp_path / "store", chain.recipe
    dense = gpusq_json("intake", "--model", "new:vit-test", "--classes", 4, "--store", root)
    assert dense["digest"] == chain.artifact("intake").digest
    quick = ("--epochs", recipe.prune.epochs, "--batch-size", 16, "--calibration-images", 16)
    data = ("--data", chain.images, "--store", root)
    sparse = gpusq_json("prune", dense["path"], *quick, *data)
    assert sparse["digest"] == chain.artifact("prune").digest
    quantized = gpusq_json("qat", sparse["digest"][:8], *quick, *data)
    assert quantized["digest"] == chain.artifact("qat").digest
    loose = ("--samples", 4, "--agreement", "0.0", "--fp16-agreement", "0.0")
    onnx = gpusq_json("export", f"quantized-{quantized['digest'][:8]}", *loose, *data)
    assert onnx["digest"] == chain.artifact("export").digest
    built = ("build", onnx["digest"], "--target", "cpu", "--runtime", "onnxruntime", "--rtx-check", "off")
    engine = gpusq_json(*built, "--agreement", "0.0", "--store", root)
    assert Store(root).resolve(engine["digest"]).key == chain.artifact("build", target="cpu").key
    assert gpusq_json("verify", "--store", root) == {"checked": 5, "problems": []}


@pytest.mark.parametrize("stage", ["intake", "train", "prune", "qat", "export", "build"])
def test_every_parameter_of_a_stage_is_an_option(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import fields

    from gpusq.recipe import STAGES
    from gpusq.stages import Intake

    monkeypatch.setenv("COLUMNS", "200")
    shown = gpusq(stage, "--help").output
    for field in fields({**STAGES, "intake": Intake}[stage]):
        assert "--" + field.name.replace("_", "-") in shown
        assert field.metadata["help"]


# ---- looking ----


def test_show_list_log_and_verify(chain: Chain, store: Path) -> None:
    engine = chain.artifact("build", target="cpu")
    shown = gpusq_json("show", engine.digest[:10], "--store", store)
    assert (shown["digest"], shown["target"], shown["kind"]) == (engine.digest, "cpu", "engine")
    assert engine.digest in gpusq("show", engine.digest[:10], "--store", store).stdout
    lineage = gpusq_json("log", engine.digest[:10], "--store", store)["lineage"]
    assert [x["kind"] for x in lineage] == ["dense", "sparse", "quantized", "onnx", "engine"]
    assert all(x["present"] for x in lineage)
    listed = gpusq_json("list", "--store", store)["artifacts"]
    assert {x["digest"] for x in listed} == {s.done.artifact.digest for s in chain.result.steps}
    assert gpusq_json("verify", "--store", store) == {"checked": len(listed), "problems": []}
    assert gpusq_json("verify", engine.digest[:10], "--store", store) == {"checked": 1, "problems": []}
    assert "0 problems" in gpusq("verify", "--store", store).stdout


def test_latest_names_what_the_latest_run_made(chain: Chain, store: Path) -> None:
    """`report latest` is of a run; `show`, `log` and `verify` take the compressed artifact of that run."""
    engine = chain.artifact("build", target="cpu")
    assert gpusq_json("show", "latest", "--store", store)["digest"] == engine.digest
    lineage = gpusq_json("log", "latest", "--store", store)["lineage"]
    assert lineage == gpusq_json("log", engine.digest, "--store", store)["lineage"]
    assert gpusq_json("verify", "latest", "--store", store) == {"checked": 1, "problems": []}


def test_latest_without_a_run_says_how_to_make_one(tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    result = gpusq("show", "latest", "--store", tmp_path)
    assert result.exit_code == 5
    assert "gpusq compress" in result.stderr


def test_a_closed_pipe_ends_a_command_quietly(chain: Chain) -> None:
    import os

    reader, writer = os.pipe()
    os.close(reader)  # as `head` does when it has seen enough
    command = [sys.executable, "-m", "gpusq", "show", chain.artifact("export").digest[:12], "--store", str(chain.root)]
    with os.fdopen(writer, "wb") as closed:
        ended = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, cwd=ROOT, timeout=120)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_a_second_run_says_what_it_reuses(chain: Chain, store: Path) -> None:
    told = compress(chain, store).stderr.splitlines()
    reused = [line.partition("] ")[2].split() for line in told if " reused " in line]
    assert [words[0] for words in reused] == [step.done.artifact.manifest.stage for step in chain.result.steps]


def test_log_says_what_is_not_in_the_store(chain: Chain, store: Path) -> None:
    import shutil

    shutil.rmtree(store / "artifacts" / chain.artifact("prune").path.name)
    lineage = gpusq_json("log", chain.artifact("export").digest[:10], "--store", store)["lineage"]
    assert [(x["kind"], x["present"]) for x in lineage] == [("sparse", False), ("quantized", True), ("onnx", True)]
    assert "(not in this store)" in gpusq("log", chain.artifact("export").digest[:10], "--store", store).stdout


def test_gc_removes_leftovers_and_no_artifact(chain: Chain, store: Path) -> None:
    (store / "staging" / "dead").mkdir(parents=True)
    (store / "staging" / "dead" / "half").write_bytes(b"x" * 1000)
    assert gpusq_json("gc", "--store", store)["freed_bytes"] >= 1000
    assert tree(store) == tree(chain.root)


def test_bench_against_a_second_engine(chain: Chain, store: Path) -> None:
    one, two = (chain.artifact("build", role, "cpu").digest for role in ("model", "dense twin"))
    command = ("bench", one[:10], "--against", two[:10], "--batch", 1, "--batch", 2, "--seconds", 0.1, "--threads", 1)
    found = gpusq_json(*command, "--store", store)
    assert [(r["engine"], r["batch"]) for r in found["rows"]] == [(one, 1), (two, 1), (one, 2), (two, 2)]
    assert all(0 < r["p50_ms"] <= r["p90_ms"] <= r["p99_ms"] for r in found["rows"])
    assert found["status"] == "measured"
    assert found["conditions"]["cpu"]


def test_targets_doctor_and_version() -> None:
    from gpusq import __version__

    listed = gpusq_json("targets")["targets"]
    assert {"cpu", "a100", "a100-80gb", "agx-orin", "agx-orin-32gb"} <= listed.keys()
    assert "a100-80gb" in gpusq("targets").stdout
    assert gpusq("--version").stdout == f"gpusq {__version__}\n"
    result = gpusq("doctor", "--json")
    findings = json.loads(result.stdout)["findings"]
    assert {"Python", "processor", "memory", "disk", "GPU", "torch", "tensorrt"} <= {f["what"] for f in findings}
    assert result.exit_code == any(f["state"] == "problem" for f in findings)
    assert all(f["do"] for f in findings if f["state"] != "ok")


# ---- the user's repository ----


def test_init_starts_a_repository_once(tmp_path: Path) -> None:
    written = gpusq_json("init", tmp_path)["written"]
    assert {Path(p).relative_to(tmp_path).as_posix() for p in written} == {
        "export/README.md",
        "export/recipes/my-vit.toml",
        "calibration/README.md",
    }
    before = tree(tmp_path)
    again = gpusq("init", tmp_path, "--json")
    assert (again.exit_code, json.loads(again.stdout)["error"]["type"]) == (2, "UsageError")
    assert tree(tmp_path) == before


def test_calibration_draw_and_check(chain: Chain, tmp_path: Path) -> None:
    drawn = gpusq_json("calibration", "draw", "--data", chain.images, "-n", 8, "--seed", 3, "-o", tmp_path / "m.txt")
    assert drawn == {"path": str(tmp_path / "m.txt"), "images": 8, "seed": 3}
    checked = gpusq_json("calibration", "check", tmp_path / "m.txt", "--data", chain.images)
    assert checked == {"path": str(tmp_path / "m.txt"), "images": 8, "matches": True}
    store = chain.copy(tmp_path / "store").root
    options = ("--epochs", 0, "--data", chain.images, "--store", store, "--calibration", tmp_path / "m.txt")
    made = gpusq_json("qat", chain.artifact("prune").digest, *options)
    (tmp_path / "m.txt").rename(tmp_path / "n.txt")
    again = gpusq_json("qat", chain.artifact("prune").digest, *options[:-1], tmp_path / "n.txt")
    assert again["digest"] == made["digest"]
    assert again["reused"], "the content of a manifest counts, not its place"
    for command in (("draw", "-o", tmp_path / "x.txt"), ("check", tmp_path / "n.txt")):
        assert gpusq("calibration", *command).exit_code == 2


# ---- other processes ----


@pytest.mark.slow
def test_a_store_in_use(chain: Chain, store: Path) -> None:
    """The second process says for whom it waits; it gives up in time, stops on Ctrl-C, or goes on."""
    import os

    dense = chain.artifact("intake").digest
    prune = ("prune", dense, "--score", "magnitude", "--epochs", 0, "--data", chain.images, "--store", store)
    with Store(store).lock():
        before = tree(store)
        waiting, stopped = start(*prune, "--json"), start("gc", "--store", store)
        given_up = start(*prune, "--wait", 0.1, "--json")
        assert waiting.stderr is not None
        assert stopped.stderr is not None
        for process in (waiting, stopped):
            count = 2 if process is waiting else 1  # a stage says first that it opens its libraries
            lines = [process.stderr.readline() for _ in range(count)]  # type: ignore[union-attr]
            assert any(f"in use by pid {os.getpid()} " in line for line in lines)
        stopped.send_signal(signal.SIGINT)
        _, err = stopped.communicate(timeout=60)
        assert stopped.returncode == 130
        assert "interrupted" in err
        out, _ = given_up.communicate(timeout=120)
        assert given_up.returncode == 6
        assert json.loads(out)["error"]["type"] == "StoreBusyError"
        assert waiting.poll() is None
        assert tree(store) == before
    out, err = waiting.communicate(timeout=120)
    assert waiting.returncode == 0, err
    assert not json.loads(out)["reused"]


def test_help_and_looking_need_no_torch(chain: Chain) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from gpusq.cli.main import app; r = CliRunner()\n"
        "for c in sys.argv[2:]:\n"
        "    result = r.invoke(app, c.split('|')); assert result.exit_code == 0, result.output\n"
        "print([m for m in sys.argv[1].split() if m in sys.modules])"
    )
    store = f"--store|{chain.root}"
    engine = chain.artifact("build", target="cpu").digest[:10]
    commands = ["--help", "qat|--help", "targets", f"list|{store}", f"verify|{store}", f"report|{store}"]
    commands += [f"show|{engine}|{store}", f"log|{engine}|{store}"]
    heavy = "torch transformers onnx onnxruntime openvino accelerate sklearn"
    command = [sys.executable, "-c", code, heavy, *commands]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
