"""`gpusq zoo`: one table on standard output, the reasons as they come, an exit code that says whether all passed."""

from __future__ import annotations

import json
import platform
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import gpusq.zoo
from gpusq.cli import main
from gpusq.zoo import FAMILIES, STEPS, FamilyResult, Limits

PASSED = FamilyResult("DETR", "new:detr-mini", list(STEPS))
STOPPED = FamilyResult("Swin", "new:swin-test", ["intake"], "PatternError: no")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpusq", "zoo", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.run()
    return int(ended.value.code or 0)


def answers(monkeypatch: pytest.MonkeyPatch, *results: FamilyResult) -> list[str]:
    """Let the zoo give these; the names that it was asked for."""
    asked: list[str] = []

    def run_zoo(families: object, limits: object, said: object) -> list[FamilyResult]:
        asked.extend(family.name for family in families)  # type: ignore[attr-defined]
        for result in results:
            said(result)  # type: ignore[operator]
        return list(results)

    monkeypatch.setattr(gpusq.zoo, "run_zoo", run_zoo)
    return asked


def test_all_passed_is_exit_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked = answers(monkeypatch, PASSED)
    assert run(monkeypatch, "--family", "detr", "--out", str(tmp_path)) == 0
    printed = capsys.readouterr()
    assert asked == ["DETR"]
    assert "1 of 1 families pass every step" in printed.out
    assert "DETR: every step" in printed.err
    data = json.loads((tmp_path / "zoo.json").read_text())
    assert data["passed"] == 1
    assert data["conditions"]["gpusq"] == gpusq.__version__
    assert data["conditions"]["host"]["python"] == platform.python_version()
    age = datetime.now(timezone.utc) - datetime.strptime(data["conditions"]["date"], "%Y-%m-%dT%H:%M:%S%z")
    assert timedelta(0) <= age < timedelta(hours=1)
    assert (tmp_path / "zoo.md").read_text() in printed.out


def test_one_that_stopped_is_exit_1_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(monkeypatch, PASSED, STOPPED)
    assert run(monkeypatch, "--json") == 1
    printed = capsys.readouterr()
    assert [row["why"] for row in json.loads(printed.out)["results"]] == ["", "PatternError: no"]
    assert "Swin: PatternError: no" in printed.err


def test_the_help_says_that_some_are_trained_and_when_it_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert any(family.passes for family in FAMILIES)
    assert "detectors that choose their queries by score are trained" in text
    assert "small and with fresh weights" not in text
    assert "Exit 1 where a family stops at a step" in text
    assert text.count("Exit 1") == 1


def test_the_command_and_the_python_call_have_the_same_limits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    answers(monkeypatch, PASSED)
    assert run(monkeypatch, "--out", str(tmp_path)) == 0
    conditions = json.loads((tmp_path / "zoo.json").read_text())["conditions"]
    assert Limits() == Limits(conditions["seconds_limit"], conditions["memory_limit_gib"])
    capsys.readouterr()


def test_an_unknown_family_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--family", "YOLO", "--json") == 2
    assert "YOLOS" in json.loads(capsys.readouterr().out)["error"]["what"]
