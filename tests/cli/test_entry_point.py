"""The console script's entry point: what it sets before anything heavy is imported."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from gpusq.cli import main
from gpusq.recipe import Recipe
from tests.cli.commands import gpusq


@pytest.mark.parametrize(("before", "after"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_do_not_spin_unless_told_to(
    before: str | None, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if before is None:
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    else:
        monkeypatch.setenv("OMP_WAIT_POLICY", before)
    seen: list[str | None] = []
    monkeypatch.setattr(sys, "argv", ["gpusq"])
    monkeypatch.setattr(main, "app", lambda: seen.append(os.environ.get("OMP_WAIT_POLICY")))
    main.run()
    assert seen == [after]


@pytest.mark.parametrize(
    "line", ["bogus --json", "compress --nope --json", "prune --json", "build x --max-batch z --json"]
)
def test_a_command_line_that_does_not_parse_is_a_json_object_for_machines(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpusq", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main.run()
    error = json.loads(capsys.readouterr().out)["error"]
    assert ended.value.code == error["exit_code"] == 2
    assert error["type"] == "UsageError"
    assert error["got"]


def test_a_value_out_of_range_is_told_with_its_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpusq", "compress", "--max-drop", "nan", "--json"])
    with pytest.raises(SystemExit):
        main.run()
    assert "--max-drop" in json.loads(capsys.readouterr().out)["error"]["got"]


def test_a_report_that_could_not_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    line = f"compress --model new:vit-test --data digits --store {tmp_path}/store --html {tmp_path}/file/r.html --json"
    monkeypatch.setattr(sys, "argv", ["gpusq", *line.split()])
    with pytest.raises(SystemExit):
        main.run()
    error = json.loads(capsys.readouterr().out)["error"]
    assert "must be writable" in error["what"]
    assert error["got"] == f"{tmp_path}/file, which is no folder"
    assert not (tmp_path / "store").exists()


def test_a_folder_as_report_is_called_a_folder(tmp_path: Path) -> None:
    result = gpusq("compress", "-m", "new:vit-test", "-d", "digits", "--store", tmp_path / "store", "--html", tmp_path)
    assert result.exit_code == 2
    assert f"got {tmp_path}, a folder; give {tmp_path}/report.html" in result.stderr


def test_without_images_the_option_is_named(tmp_path: Path) -> None:
    result = gpusq("compress", "-m", "new:vit-test", "--store", tmp_path / "store")
    assert (result.exit_code, "compress needs images; got no --data" in result.stderr) == (2, True)


def test_the_help_names_the_target_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Recipe().targets == ("cpu",)
    assert "cpu (where none is given)" in " ".join(gpusq("compress", "--help").stdout.replace("│", " ").split())
