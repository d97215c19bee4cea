"""The detector demo's results page: the report's own figures, differences and ratios, and nothing it does not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import aerial_detr_demo as script
from gpusq.reports import build_report
from gpusq.reports.numbers import coverage_of
from gpusq.reports.rows import Row
from tests.reports.sample import CREATED, detector, row_data

NOTES = ("a100: TensorRT-RTX 8.0: parsed and built", "cpu engine: AP")


def detector_row(variant: str, batch: int, ms: float, ap50: float, **more: Any) -> Row:
    also = {"AP50": ap50, "AP75": 0.01}
    about = {"metric": "AP", "n": 277, "split": "aerial test", "how": "the engine itself"}
    accuracy = about | {"value": 0.05, "also": also}
    return Row.model_validate(row_data("cpu", variant, batch, ms, "measured", accuracy=accuracy, **more))


def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *options: str, **more: Any) -> str:
    """What the script writes of a report of two engines at two batches; more: fields of every row."""
    rows = [
        detector_row(variant, batch, ms * batch, ap50, **more)
        for variant, ms, ap50 in (("dense-fp32", 30.0, 0.1823), ("sparse-int8", 12.0, 0.1747))
        for batch in (1, 8)
    ]
    report = build_report("demo", rows, created=CREATED, notes=NOTES)
    (tmp_path / "report.json").write_text(report.model_dump_json(), encoding="utf-8")
    given = ["x", "--report", str(tmp_path / "report.json"), "--out", str(tmp_path / "page.md"), *options]
    monkeypatch.setattr("sys.argv", given)
    script.main()
    return (tmp_path / "page.md").read_text(encoding="utf-8")


def test_the_page_says_what_the_report_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = page(tmp_path, monkeypatch)
    assert "less that of the dense engine: -0.76 points" in found
    assert "| build | dense-fp32 | 5.00 | 18.23 | 1.00 | 277 |" in found
    assert "| 8 | 240.0 | 96.0 | 2.50x |" in found
    assert "TensorRT-RTX 8.0: parsed and built" in found
    assert "cpu engine: AP" not in found


def test_the_page_does_not_say_what_the_report_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = page(tmp_path, monkeypatch)
    assert "shared" not in found
    assert "minutes" not in found


def test_the_transformer_is_told_apart_where_the_report_tells_it_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload, layers = detector(True, True)
    coverage = coverage_of(workload, layers)
    part = coverage.transformer
    assert part is not None
    whole = f"{coverage.sparse:.1%} are 2:4 sparse and {coverage.int8:.1%} INT8"
    inside = f"its transformer ({part.share:.1%} of the model's) {part.sparse:.1%} and {part.int8:.1%}."
    found = page(tmp_path, monkeypatch, coverage=coverage.model_dump())
    assert f"{whole}; of those of {inside}" in found
    alone = page(tmp_path, monkeypatch, coverage=coverage.model_copy(update={"transformer": None}).model_dump())
    assert f"{whole}.\n" in alone
    assert "all of it transformer" not in found + alone


def test_the_wall_time_of_the_run_stands_where_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "`make demo-detr` took 14 minutes (853 s of wall time after the setup)" in page(
        tmp_path, monkeypatch, "--seconds", "853"
    )


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "long"])
def test_what_is_no_time_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds: str
) -> None:
    with pytest.raises(SystemExit):
        page(tmp_path, monkeypatch, f"--seconds={seconds}")
    assert "a number of seconds above 0" in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()
