"""`gpusq build BUNDLE` and `gpusq import` as a user types them, on this machine as it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.finishing.small import Pair, make_pair

pytest.importorskip("tensorrt_rtx", reason="the rtx extra builds real engines without a GPU")


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("cli-device") / "store", "agx-orin")


def gpusq(*arguments: object, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gpusq", *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "120"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def refusal(*arguments: object, cwd: Path, code: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gpusq(*arguments, "--json", cwd=cwd, code=code).stdout)["error"]
    return found


def test_the_way_of_a_bundle_that_was_copied_to_another_machine(sealed: Pair, tmp_path: Path) -> None:
    for source, name in ((sealed.model.path, "mine"), (sealed.twin.path, "its-twin")):
        shutil.copytree(source, tmp_path / "bundles" / name)
    command = ("build", tmp_path / "bundles/mine", "--builder", "tensorrt-rtx", "--receipt", "receipt.json")
    done = gpusq(*command, cwd=tmp_path)
    assert (tmp_path / "engine-mine/engine.plan").is_file()
    assert (tmp_path / "engine-mine-twin/engine.plan").is_file()
    assert "not an engine of agx-orin-64gb" in done.stdout
    assert "not run: no GPU" in done.stdout
    assert "build model" in done.stderr  # progress
    shown = gpusq("verify", "engine-mine", cwd=tmp_path)
    assert "0 problems" in shown.stdout
    assert sealed.model.digest[:16] in gpusq("show", "engine-mine", cwd=tmp_path).stdout
    imported = gpusq("import", "receipt.json", "--store", sealed.store.root, cwd=tmp_path)
    assert "0 measured rows" in imported.stdout
    assert f"bundle-{sealed.model.digest[:12]}" in imported.stdout


def test_as_json_and_by_its_name_in_the_store(sealed: Pair, tmp_path: Path) -> None:
    reference = f"bundle-{sealed.twin.digest[:12]}"
    command = ("build", reference, "--store", sealed.store.root, "--builder", "tensorrt-rtx", "--out", "e", "-q")
    done = gpusq(*command, "--twin", "none", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert set(found["engines"]) == {"model"}
    assert found["engines"]["model"]["place"]["capabilities"] == ["8.6"]
    assert found["receipt"]["status"].startswith("not run: no GPU")
    assert done.stderr == ""


def test_refusals_name_the_next_step(sealed: Pair, tmp_path: Path) -> None:
    bundle = sealed.model.path
    assert refusal("build", bundle, "--builder", "magic", cwd=tmp_path, code=2)["type"] == "UsageError"
    assert ".[tensorrt]" in refusal("build", bundle, cwd=tmp_path, code=9)["do"]
    rtx = ("--builder", "tensorrt-rtx")
    sparse = refusal("build", bundle, *rtx, "--require-sparse", "0.5", cwd=tmp_path, code=7)
    assert sparse["type"] == "SparseShareError"
    for unused in (("--max-batch", "4"), ("--target", "a100")):
        assert refusal("build", bundle, *rtx, *unused, cwd=tmp_path, code=2)["got"] == unused[0]
    cache = refusal("build", bundle, *rtx, "--timing-cache", "cache", cwd=tmp_path, code=2)
    assert "ahead of time" in cache["what"]
    nothing = refusal("build", tmp_path / "onnx-1", "--require-sparse", "0.5", cwd=tmp_path, code=2)
    assert nothing["got"] == "--require-sparse"
    inside = refusal("build", bundle, *rtx, "--out", bundle / "engine", cwd=tmp_path, code=2)
    assert "outside the bundle" in inside["what"]
    changed = tmp_path / "changed"
    shutil.copytree(bundle, changed)
    (changed / "model.fp16.onnx").write_bytes(b"another graph")
    assert refusal("build", changed, *rtx, cwd=tmp_path, code=5)["type"] == "TamperedArtifactError"
    assert not list(tmp_path.glob("engine*"))


@pytest.mark.parametrize("way", ["folder", "store"])
def test_too_few_sparse_kernels_end_with_7_for_people_too(sealed: Pair, tmp_path: Path, way: str) -> None:
    reference = sealed.model.path if way == "folder" else f"bundle-{sealed.model.digest[:12]}"
    command = ("build", reference, "--store", sealed.store.root, "--builder", "tensorrt-rtx", "--require-sparse", "0.5")
    done = gpusq(*command, "--receipt", "r.json", cwd=tmp_path, code=7)
    assert "gpusq: SparseShareError: at least 50%" in done.stderr
    assert json.loads((tmp_path / "r.json").read_text())["failure"]["error"]["exit_code"] == 7
    again = gpusq(*command, "--receipt", "r.json", cwd=tmp_path, code=7)  # over the receipt of the run before
    assert "SparseShareError" in again.stderr


def test_what_is_not_there_is_not_found_and_what_is_other_is_changed(sealed: Pair, tmp_path: Path) -> None:
    nowhere, other = tmp_path / "nope", tmp_path / "other"
    other.mkdir()
    (other / "holiday.txt").touch()
    store = ("--store", sealed.store.root)
    for command in (("verify", nowhere, *store), ("doctor", "--bundle", nowhere), ("show", nowhere, *store)):
        assert refusal(*command, cwd=tmp_path, code=5)["type"] == "ArtifactNotFoundError"
    for command in (("verify", other, *store), ("doctor", "--bundle", other)):
        assert refusal(*command, cwd=tmp_path, code=5)["type"] == "TamperedArtifactError"


def test_bench_of_an_engine_that_cannot_run_here_is_refused_clearly(sealed: Pair, tmp_path: Path) -> None:
    gpusq("build", sealed.model.path, "--builder", "tensorrt-rtx", "--out", "e", "--twin", "none", "-q", cwd=tmp_path)
    found = refusal("bench", "e", "--target", "agx-orin", cwd=tmp_path, code=8)
    assert "8.6" in found["what"]
    assert "gpusq build bundle-" in found["do"]
    assert refusal("bench", "e", "--target", "a100", cwd=tmp_path, code=2)["got"] == "agx-orin-64gb"
