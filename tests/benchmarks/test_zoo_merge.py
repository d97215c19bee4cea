"""Results of several runs become one table only where they are of one version."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import zoo as script
from gpusq.zoo import FAMILIES, STEPS, FamilyResult, to_json, to_markdown


def results(path: Path, family: str, parameters: int, **conditions: str) -> Path:
    found = FamilyResult(family, "new:x", list(STEPS), parameters=parameters)
    path.write_text(json.dumps(to_json([found], conditions)), encoding="utf-8")
    return path


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page and the results in an empty folder."""
    monkeypatch.setattr(script, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(script, "PAGE", tmp_path / "docs" / "zoo.md")
    return tmp_path


def test_a_merge_says_which_version_and_which_dates_it_is_of(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = FAMILIES[0].name, FAMILIES[1].name
    files = [
        results(places / "a.json", second, 1, gpusq="0.0.7", date="2026-01-02T00:00:00Z"),
        results(places / "b.json", first, 2, gpusq="0.0.7", date="2026-01-03T00:00:00Z"),
        results(places / "c.json", second, 3, gpusq="0.0.7", date="2026-01-04T00:00:00Z"),
    ]
    monkeypatch.setattr(sys, "argv", ["zoo.py", "--merge", *map(str, files)])
    script.main()
    data = json.loads((places / "results" / "zoo.json").read_text(encoding="utf-8"))
    assert data["conditions"]["gpusq"] == "0.0.7"
    assert [date[:10] for date in data["conditions"]["date"]] == ["2026-01-02", "2026-01-03", "2026-01-04"]
    assert [(row["family"], row["parameters"]) for row in data["results"]] == [(first, 2), (second, 3)]


@pytest.mark.parametrize("other", [{"gpusq": "0.0.8"}, {}], ids=["another", "not stated"])
def test_results_of_two_versions_are_not_merged(
    places: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, str]
) -> None:
    files = [
        results(places / "a.json", FAMILIES[0].name, 1, gpusq="0.0.7"),
        results(places / "b.json", FAMILIES[1].name, 2, **other),
    ]
    monkeypatch.setattr(sys, "argv", ["zoo.py", "--merge", *map(str, files)])
    with pytest.raises(SystemExit, match=r"one version of gpusq, got 0\.0\.7, "):
        script.main()
    assert not (places / "results").exists()


def test_the_committed_page_is_that_of_the_committed_results_and_of_the_families() -> None:
    data = json.loads((script.RESULTS / "zoo.json").read_text(encoding="utf-8"))
    found = [FamilyResult.from_json(row) for row in data["results"]]
    assert script.PAGE.read_text(encoding="utf-8") == script.INTRODUCTION + to_markdown(found)
    assert [(r.family, r.model, r.passes) for r in found] == [(f.name, f.model, f.passes) for f in FAMILIES]
    table = (script.RESULTS / "zoo.md").read_text(encoding="utf-8")
    assert table == f"{script.stated(data['conditions'])}\n\n{to_markdown(found)}"
