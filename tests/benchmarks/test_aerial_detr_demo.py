"""The detector demo's results page: the report's own figures, differences and ratios."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import aerial_detr_demo as script
from gpusq.reports import build_report
from gpusq.reports.rows import Row
from tests.reports.sample import CREATED, row_data


def detector_row(variant: str, batch: int, ms: float, ap50: float) -> Row:
    also = {"AP50": ap50, "AP75": 0.01}
    about = {"metric": "AP", "n": 277, "split": "aerial test", "how": "the engine itself"}
    accuracy = about | {"value": 0.05, "also": also}
    return Row.model_validate(row_data("cpu", variant, batch, ms, "measured", accuracy=accuracy))


def test_the_page_says_what_the_report_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        detector_row(variant, batch, ms * batch, ap50)
        for variant, ms, ap50 in (("dense-fp32", 30.0, 0.1823), ("sparse-int8", 12.0, 0.1747))
        for batch in (1, 8)
    ]
    notes = ["a100: TensorRT-RTX 8.0: parsed and built", "cpu engine: AP"]
    report = build_report("demo", rows, created=CREATED, notes=notes)
    (tmp_path / "report.json").write_text(report.model_dump_json(), encoding="utf-8")
    given = ["x", "--report", str(tmp_path / "report.json"), "--out", str(tmp_path / "page.md")]
    monkeypatch.setattr("sys.argv", given)
    script.main()
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "less that of the dense engine: -0.76 points" in page
    assert "| build | dense-fp32 | 5.00 | 18.23 | 1.00 | 277 |" in page
    assert "| 8 | 240.0 | 96.0 | 2.50x |" in page
    assert "TensorRT-RTX 8.0: parsed and built" in page
    assert "cpu engine: AP" not in page
