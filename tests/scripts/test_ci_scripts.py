"""The scripts behind the engines workflow: a stand-in `gh` at the boundary to GitHub, everything else for real."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from gpusq.artifacts import open_artifact
from gpusq.delivery import contents_of
from gpusq.errors import UsageError
from gpusq.finishing import read_receipt, write_receipt
from tests.engines.conftest import qdq_model
from tests.finishing.small import make_pair
from tests.receipts import receipt, row

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = ROOT / "scripts"
GPUSQ = Path(sys.executable).parent / "gpusq"


def run(
    script: str, *arguments: str | Path, path: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A script of scripts/, with `path` first in PATH."""
    search = f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]
    return subprocess.run(
        ["bash", str(SCRIPTS / script), *map(str, arguments)],
        env={**os.environ, "PATH": search, "PYTHON": sys.executable, "GPUSQ": str(GPUSQ), **environment},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def program(folder: Path, name: str, text: str) -> Path:
    """An executable of this name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/usr/bin/env bash\n{text}")
    (folder / name).chmod(0o755)
    return folder


def job(name: str, status: str, minutes_ago: float = 0) -> dict[str, str]:
    """A job as GitHub's API tells it (the fields that are read; by hand, after its documentation)."""
    created = datetime.now(timezone.utc) - timedelta(minutes=minutes_ago)
    return {"name": name, "status": status, "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ")}


def answers(folder: Path, *states: list[dict[str, str]]) -> Path:
    """A `gh` whose n-th call prints the n-th answer, as two pages one after the other; the last one from then on."""
    for number, jobs in enumerate(states):
        pages = ({"total_count": len(jobs), "jobs": jobs[:1]}, {"total_count": len(jobs), "jobs": jobs[1:]})
        (folder / f"{number}.json").write_text("\n".join(map(json.dumps, pages)))
    return program(
        folder / "bin",
        "gh",
        f'cd "{folder}"\nn=$(cat n 2>/dev/null || echo 0)\necho $((n + 1)) >n\n'
        f"[ $n -lt {len(states)} ] || n={len(states) - 1}\ncat $n.json\n",
    )


def watch(folder: Path, *states: list[dict[str, str]], **more: str) -> subprocess.CompletedProcess[str]:
    """ci_watch.sh on these answers."""
    github = {
        "GITHUB_REPOSITORY": "o/r",
        "GITHUB_RUN_ID": "7",
        "POLL_SECONDS": "0",
        "GITHUB_OUTPUT": str(folder / "out"),
    }
    return run("ci_watch.sh", path=answers(folder, *states), **(github | more))


def test_the_watch_ends_when_all_builds_ended(tmp_path: Path) -> None:
    prepare, first, second = job("prepare vit", "queued", 99), "build vit-a100", "build vit-agx-orin"
    done = watch(
        tmp_path,
        [prepare, job(first, "queued", 1), job(second, "in_progress", 99)],
        [prepare, job(first, "in_progress", 2), job(second, "completed", 99)],
        [prepare, job(first, "completed", 3), job(second, "completed", 99)],
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "n").read_text() == "3\n"
    assert (tmp_path / "out").read_text() == "stuck=0\n"


def test_the_watch_gives_up_on_a_job_that_no_runner_takes(tmp_path: Path) -> None:
    jobs = [job("build vit-a100", "completed", 50), job("build vit-agx-orin", "queued", 31)]
    done = watch(tmp_path, jobs)
    assert done.returncode == 0, done.stderr
    assert "no runner took 'build vit-agx-orin' in 31 minutes" in done.stdout
    assert (tmp_path / "out").read_text() == "stuck=1\n"


def test_the_watch_fails_where_github_does_not_answer_or_has_no_such_jobs(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert watch(tmp_path / "a", [job("prepare vit", "completed")]).returncode != 0
    failing = program(tmp_path / "b", "gh", "exit 4\n")
    github = {"GITHUB_REPOSITORY": "o/r", "GITHUB_RUN_ID": "7", "POLL_SECONDS": "0"}
    assert run("ci_watch.sh", path=failing, **github).returncode != 0


def test_the_watch_has_patience_with_jobs_that_are_not_there_yet(tmp_path: Path) -> None:
    prepare = [job("prepare vit", "completed")]
    done = watch(tmp_path, prepare, prepare, [*prepare, job("build vit-a100", "completed")])
    assert (done.returncode, (tmp_path / "n").read_text()) == (0, "3\n")


@pytest.mark.parametrize(
    ("gh", "said", "files"),
    [
        ("exit 1", "there is no release yet", []),
        ('[ "$2" = view ] && echo v1 && exit 0\nexit 1', "v1 has no receipts", []),
        (
            '[ "$2" = view ] && echo v1 && exit 0\ntouch "$7/vit-a100.receipt.json"',
            "receipts of v1",
            ["vit-a100.receipt.json"],
        ),
    ],
)
def test_the_baseline(tmp_path: Path, gh: str, said: str, files: list[str]) -> None:
    done = run("ci_baseline.sh", tmp_path / "out", path=program(tmp_path / "bin", "gh", gh + "\n"))
    assert (done.returncode, said in done.stdout) == (0, True), done.stdout + done.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == files


def test_the_matrices_are_one_line_each(tmp_path: Path) -> None:
    lines = run("ci_matrix.sh").stdout.splitlines()
    found = {line.partition("=")[0]: json.loads(line.partition("=")[2]) for line in lines}
    assert set(found) == {"prepare", "build"}
    assert all(found[name]["include"] for name in found)


def test_a_machine_with_a_problem_builds_nothing(tmp_path: Path) -> None:
    doctor = program(tmp_path, "gpusq", 'echo "{}"\n[ "$1" = doctor ] && exit 1\ntouch built\n')
    done = run("ci_build.sh", "vit-a100", tmp_path / "bundles", tmp_path / "out", GPUSQ=str(doctor / "gpusq"))
    assert done.returncode == 1
    assert "no engine is built" in done.stderr
    assert not (ROOT / "built").exists()
    assert (tmp_path / "out/vit-a100.doctor.json").read_text() == "{}\n"


def test_what_passed_is_attached_to_the_release(tmp_path: Path) -> None:
    engine = tmp_path / "built/built-vit-a100/vit-a100.engine"
    engine.mkdir(parents=True)
    (engine / "engine.plan").write_text("plan")
    (engine.parent / "vit-a100.receipt.json").write_text("{}")
    (tmp_path / "verdict").mkdir()
    (tmp_path / "verdict/vit.html").write_text("page")
    gh = program(tmp_path / "bin", "gh", f'echo "$@" >>"{tmp_path}/calls"\n[ "$2" != view ]\n')
    done = subprocess.run(
        ["bash", str(SCRIPTS / "ci_release.sh"), "built", "verdict", "v1"],
        env={**os.environ, "PATH": f"{gh}:{os.environ['PATH']}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    view, create, upload = (tmp_path / "calls").read_text().splitlines()
    assert view == "release view v1"
    assert create.startswith("release create v1 --verify-tag")
    assert {"vit-a100.engine.tar", "engines.sha256", "built/built-vit-a100/vit-a100.receipt.json"} <= set(
        upload.split()
    )
    assert "verdict/vit.html" in upload


TINY = """
schema_version = 1
[runners.a100]
labels = ["self-hosted", "a100"]
[runners.agx-orin]
labels = ["self-hosted", "agx-orin"]
[gates]
min_sparse = 0.5
[[engine]]
name = "tiny"
recipe = "{recipe}"
targets = ["a100", "agx-orin"]
settings = {settings}
data = "{images}"
"""


@pytest.mark.slow
def test_the_host_part_for_real_on_a_tiny_model(tmp_path: Path) -> None:
    """Prepare, build with TensorRT-RTX, judge: what did not run on its target is "not built", never green."""
    from tests.chain import FAST, image_folder

    images = image_folder(tmp_path / "images")
    (tmp_path / "tiny.toml").write_text('[model]\nsource = "new:vit-test"\n')
    matrix = TINY.format(recipe=tmp_path / "tiny.toml", settings=json.dumps(list(FAST)), images=images)
    (tmp_path / "engines.toml").write_text(matrix)
    engines = {"ENGINES": str(tmp_path / "engines.toml")}
    prepared = tmp_path / "prepared/prepared-tiny"

    done = run("ci_prepare.sh", "tiny", prepared, **engines)
    assert done.returncode == 0, done.stdout + done.stderr
    for target in ("a100-40gb", "agx-orin-64gb"):
        assert {p.name for p in (prepared / "bundles" / target).iterdir()} == {"model", "twin", "model.doctor.json"}
    assert (prepared / "report.html").is_file()

    built = tmp_path / "built/built-tiny-a100"
    done = run("ci_build.sh", "tiny-a100", prepared / "bundles/a100-40gb", built, BUILDER="tensorrt-rtx")
    assert done.returncode == 0, done.stdout + done.stderr
    found = read_receipt(built / "tiny-a100.receipt.json")
    assert (found.target, [e.role for e in found.engines]) == ("a100-40gb", ["model", "dense twin"])
    with pytest.raises(UsageError, match="TensorRT built"):  # a real TensorRT-RTX engine is nothing for a server
        contents_of(open_artifact(built / "tiny-a100.engine"))

    out = tmp_path / "verdict"
    done = run("ci_verdict.sh", tmp_path / "prepared", tmp_path / "built", tmp_path / "base", out, **engines)
    assert done.returncode == 1, done.stdout + done.stderr
    summary = (out / "summary.md").read_text()
    assert summary.count("**not built**") == 2
    assert "no receipt came" in summary  # agx-orin
    assert (out / "tiny.html").is_file()
    assert (out / "tiny-a100.html").is_file()
    assert {row["target"] for row in json.loads((out / "tiny-a100.json").read_text())["rows"]} == {"a100-40gb"}

    # the same with receipts as a device would have sent them (made by hand: this machine has no such device)
    target = {"target": "agx-orin-64gb"}
    write_receipt(receipt(row(1.0)), tmp_path / "good/tiny-a100.receipt.json")
    write_receipt(receipt(row(2.0, **target), **target), tmp_path / "good/tiny-agx-orin.receipt.json")
    done = run("ci_verdict.sh", tmp_path / "none", tmp_path / "good", tmp_path / "base", tmp_path / "v2", **engines)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "v2/summary.md").read_text().count("**pass**") == 2


def test_a_build_that_fails_leaves_its_receipt_for_the_upload(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the rtx extra builds real engines without a GPU")
    graph = qdq_model(half=True).replace(b'"\x04Gelu', b'"\x04Gulp')  # an operator that no library has
    pair = make_pair(tmp_path / "store", fp16_onnx=graph)
    shutil.copytree(pair.model.path, tmp_path / "bundles/model")
    built = tmp_path / "built"
    built.mkdir()
    write_receipt(receipt(row(1.0)), built / "tiny-a100.receipt.json")  # of an earlier run in the same folder
    done = run("ci_build.sh", "tiny-a100", tmp_path / "bundles", built, BUILDER="tensorrt-rtx")
    assert done.returncode == 8, done.stdout + done.stderr
    assert "why is in" in done.stderr
    found = read_receipt(built / "tiny-a100.receipt.json")
    assert found.failure is not None
    assert found.failure.error.type == "UnsupportedNodeError"
    assert not (built / "tiny-a100.engine").exists()


def test_an_engine_that_the_matrix_does_not_name_is_refused(tmp_path: Path) -> None:
    done = run("ci_prepare.sh", "no-such-engine", tmp_path / "out")
    assert done.returncode == 2
    assert "no engine no-such-engine" in done.stderr
