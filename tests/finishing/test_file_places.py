"""Where the receipt and the timing cache may go: refused before the build, with nothing made and no seal broken."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gpusq.cli.main import app
from gpusq.errors import StoreError, UsageError
from gpusq.finishing import FinishOptions, finish
from gpusq.finishing.file_places import check_file_place
from tests.finishing.small import Pair, machine_without_gpu

trt = pytest.importorskip("tensorrt_rtx", reason="the rtx extra builds real engines without a GPU")


def never(builder: str) -> Any:
    raise AssertionError("the library was loaded before the places were checked")


@pytest.mark.parametrize("option", ["receipt", "timing_cache"])
@pytest.mark.parametrize("place", ["engine/r.json", "engine-twin/deep/r.json", "engine", "model/r.json", "twin/r.json"])
def test_a_file_in_an_engine_or_a_bundle_is_refused_before_the_build(
    pair: Pair, tmp_path: Path, option: str, place: str
) -> None:
    first, _, rest = place.partition("/")
    file = {"model": pair.model.path, "twin": pair.twin.path}.get(first, tmp_path / first) / rest
    if first.startswith("engine") and rest:  # new and empty: an engine may go there
        file.parent.mkdir(parents=True)
        out = file.parent if first == "engine-twin" else tmp_path / "engine"
    else:
        out = tmp_path / "engine"
    asked: dict[str, Any] = {option: file}
    with pytest.raises(UsageError, match=r"breaks the seal|goes outside"):
        finish(pair.model.path, FinishOptions(out, "tensorrt-rtx", **asked), never)
    assert not any(pair.store.verify_all().values())
    assert not list(tmp_path.rglob("*r.json"))


def test_in_an_engine_that_is_still_to_be_made_too(pair: Pair, tmp_path: Path) -> None:
    asked = FinishOptions(tmp_path / "engine", "tensorrt-rtx", receipt=tmp_path / "engine/r.json")
    with pytest.raises(UsageError, match="breaks the seal"):
        finish(pair.model.path, asked, never)
    assert not (tmp_path / "engine").exists()


def test_through_a_link_it_is_the_same_place(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(pair.model.path)
    with pytest.raises(UsageError, match="breaks the seal"):
        check_file_place(tmp_path / "link" / "r.json", "--receipt", ())


def test_an_earlier_engine_keeps_its_seal(pair: Pair, tmp_path: Path) -> None:
    asked = FinishOptions(tmp_path / "engine", "tensorrt-rtx", twin="none", receipt=tmp_path / "r.json")
    done = finish(pair.model.path, asked, machine_without_gpu(trt))
    with pytest.raises(UsageError, match="breaks the seal"):
        check_file_place(tmp_path / "engine/mine.json", "--receipt", (tmp_path / "another",))
    assert done.engines["model"].verify() == []
    assert (tmp_path / "r.json").is_file()


def test_a_folder_and_a_missing_folder_are_refused_and_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names a file"):
        check_file_place(tmp_path, "--receipt", ())
    with pytest.raises(UsageError, match="mkdir -p"):
        check_file_place(tmp_path / "nope/deep/r.json", "--receipt", ())
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="must be there"):
        check_file_place(tmp_path / "file/r.json", "--receipt", ())
    check_file_place(tmp_path / "r.json", "--receipt", (tmp_path / "engine",))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_place_that_the_file_system_refuses_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr("gpusq.finishing.file_places.tempfile.TemporaryFile", refuse)
    with pytest.raises(StoreError, match="Permission denied"):
        check_file_place(tmp_path / "r.json", "--receipt", ())


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a file system that takes no files, for root neither")
def test_proc_takes_no_files() -> None:
    with pytest.raises(StoreError, match="must be writable"):
        check_file_place(Path("/proc/r.json"), "--receipt", ())


def test_the_command_refuses_with_2_and_leaves_nothing(pair: Pair, tmp_path: Path) -> None:
    engine = tmp_path / "e"
    build = ["build", str(pair.model.path), "--builder", "tensorrt-rtx", "--out", str(engine), "-q", "--json"]
    done = CliRunner().invoke(app, [*build, "--receipt", str(tmp_path / "nope/r.json")])
    assert done.exit_code == UsageError.exit_code
    assert json.loads(done.stdout)["error"]["type"] == "UsageError"
    assert not engine.exists()
    assert not (tmp_path / "nope").exists()
