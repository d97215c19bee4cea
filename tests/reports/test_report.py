"""A report reads back as written, refuses edited verdicts, merges, and matches its published schema."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files
from typing import Any

import jsonschema
import pytest

from gpusq.errors import ArtifactError, NewerSchemaError, UsageError
from gpusq.reports.report import Report, build_report, merge, report_from_json, report_to_json, schema_text
from gpusq.reports.verdict import Criteria
from tests.reports.sample import CREATED, detector_rows, sample_rows


def changed(report: Report, edit: Any) -> str:
    """The report's JSON after edit(data)."""
    data = json.loads(report_to_json(report))
    edit(data)
    return json.dumps(data)


def test_json_round_trip(report: Report) -> None:
    assert report_from_json(report_to_json(report)) == report


def test_the_sample_holds_every_kind_of_answer(report: Report) -> None:
    assert [(v.target, v.decision, v.basis) for v in report.verdicts] == [
        ("a100", "ship", "predicted"),
        ("agx-orin", "undecided", "measured"),
        ("cpu", "do not ship", "measured"),
    ]


@pytest.mark.parametrize(
    ("key", "value"), [("basis", "measured"), ("decision", "do not ship"), ("variant", "x"), ("target", "cpu")]
)
def test_an_edited_verdict_is_caught(report: Report, key: str, value: str) -> None:
    with pytest.raises(ArtifactError, match="do not support"):
        report_from_json(changed(report, lambda data: data["verdicts"][0].update({key: value})))


def test_a_flipped_row_is_caught(report: Report) -> None:
    with pytest.raises(ArtifactError, match=r"rows.0.* needs latency_ms.p90"):
        report_from_json(changed(report, lambda data: data["rows"][0].update(status="measured")), "run.json")


def test_newer_and_broken_files_are_refused(report: Report) -> None:
    with pytest.raises(NewerSchemaError, match="newer gpusq"):
        report_from_json(changed(report, lambda data: data.update(schema_version=2)))
    with pytest.raises(ArtifactError, match="must be JSON"):
        report_from_json("{")
    with pytest.raises(ArtifactError, match="surprise"):
        report_from_json(changed(report, lambda data: data.update(surprise=1)))
    with pytest.raises(ArtifactError, match="not valid"):
        report_from_json("[]")


def test_coverage_once_per_artifact(report: Report) -> None:
    digests = [entry.artifact.digest for entry in report.coverage]
    assert len(digests) == len(set(digests)) == len({row.artifact.digest for row in report.rows})


def test_a_report_from_before_the_transformer_part_still_loads(report: Report) -> None:
    def as_before(data: Any) -> None:
        for entry in (*data["rows"], *data["coverage"]):
            assert entry["coverage"].pop("transformer") is None

    assert report_from_json(changed(report, as_before)) == report


def test_the_transformer_part_reads_back() -> None:
    made = build_report("detector", detector_rows(), created=CREATED)
    again = report_from_json(report_to_json(made))
    assert again == made
    assert [entry.coverage.transformer is not None for entry in again.coverage] == [True, True]


def test_merging_is_a_union(report: Report) -> None:
    assert merge([report, report]) == report
    parts = [build_report("part", [row for row in sample_rows() if row.target == t]) for t in report.targets]
    merged = merge(parts, "whole")
    assert sorted(v.decision for v in merged.verdicts) == sorted(v.decision for v in report.verdicts)
    assert (len(merged.rows), merged.title) == (len(report.rows), "whole")


def test_measured_rows_that_join_change_the_basis(report: Report) -> None:
    orin = [row for row in sample_rows() if row.target == "agx-orin"]
    before = build_report("r", [row for row in orin if row.status == "predicted"])
    after = merge([before, build_report("r", [row for row in orin if row.status == "measured"])])
    assert [r.verdicts[0].basis for r in (before, after)] == ["predicted", "measured"]


def test_merging_refuses_nothing_and_unequal_criteria(report: Report) -> None:
    with pytest.raises(UsageError, match="at least one"):
        merge([])
    with pytest.raises(UsageError, match="one set of criteria"):
        merge([report, build_report("strict", sample_rows(), criteria=Criteria(max_drop=0.1))])


def test_published_schema_is_current_and_fits(report: Report) -> None:
    published = files("gpusq.reports").joinpath("report.schema.json").read_text(encoding="utf-8")
    assert published == schema_text(), "write schema_text() to gpusq/reports/report.schema.json"
    schema = json.loads(published)
    jsonschema.Draft202012Validator.check_schema(schema)
    data = json.loads(report_to_json(report))
    jsonschema.validate(data, schema)
    data["rows"][0]["surprise"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, schema)


def test_importing_reports_stays_light() -> None:
    heavy = "'torch', 'plotly', 'jinja2', 'rich'"
    code = f"import sys, gpusq.reports; sys.exit(' '.join(m for m in ({heavy}) if m in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
