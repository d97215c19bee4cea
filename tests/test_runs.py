"""Reports of runs: kept, found again, refused where they are not whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from gpusq.artifacts import durable
from gpusq.errors import ArtifactError, ArtifactNotFoundError, NewerSchemaError, StoreFullError, UsageError
from gpusq.reports import Report
from gpusq.reports.view import short_paths
from gpusq.runs import keep_report, read_report, write_report
from tests.chain import Chain, tree


@pytest.fixture
def report(chain: Chain) -> Report:
    """The report of the finished run."""
    return chain.result.report


def test_a_report_is_found_by_name_by_file_and_as_the_latest(report: Report, tmp_path: Path) -> None:
    path = keep_report(report, tmp_path, "one")
    other = report.model_copy(update={"title": "other"})
    keep_report(other, tmp_path, "two")
    assert read_report("one", tmp_path) == read_report(str(path), tmp_path) == report
    assert read_report("latest", tmp_path) == read_report("two", tmp_path) == other


def test_an_unknown_run_names_the_known_ones(report: Report, tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFoundError, match="gpusq compress"):
        read_report("latest", tmp_path)
    with pytest.raises(ArtifactNotFoundError, match="gpusq compress"):
        read_report("one", tmp_path)
    keep_report(report, tmp_path, "one")
    with pytest.raises(ArtifactNotFoundError, match="use one of: one"):
        read_report("two", tmp_path)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda text: text[:-50], ArtifactError),
        (lambda text: text.replace('"status": "predicted"', '"status": "measured"', 1), ArtifactError),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 7', 1), NewerSchemaError),
    ],
    ids=["torn", "relabelled", "newer"],
)
def test_a_changed_report_is_refused(report: Report, tmp_path: Path, change: Any, error: type[ArtifactError]) -> None:
    path = keep_report(report, tmp_path, "one")
    before = path.read_text()
    path.write_text(change(before))
    assert path.read_text() != before
    with pytest.raises(error):
        read_report("one", tmp_path)


def test_both_forms_are_written_where_asked(report: Report, tmp_path: Path) -> None:
    json_path, html_path = tmp_path / "a" / "r.json", tmp_path / "b" / "r.html"
    assert write_report(report, json_path=json_path, html_path=html_path) == [json_path, html_path]
    assert read_report(str(json_path), tmp_path) == report
    assert short_paths(report.title) in html_path.read_text()
    assert write_report(report, json_path=None, html_path=None) == []


def test_no_space_leaves_the_old_report(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_report(report, tmp_path, "one")
    before = tree(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(StoreFullError, match="No space left"):
        keep_report(report.model_copy(update={"title": "other"}), tmp_path, "one")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("place", [".", "", "/", "folder"])
def test_a_folder_is_refused_before_anything_is_written(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="written to a file"):
        write_report(report, json_path=tmp_path / "r.json", html_path=Path(place))
    with pytest.raises(UsageError, match=r"written to a file.*report\.json"):
        write_report(report, json_path=Path(place), html_path=tmp_path / "r.html")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
