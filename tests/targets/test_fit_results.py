"""The committed fit and the shipped target files say the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpusq.targets import load_target

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "latency_fit.json"


@pytest.fixture(scope="module")
def fitted() -> Any:
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def test_the_a100_file_holds_the_committed_fit(fitted: Any) -> None:
    target = load_target("a100")
    paths = [row for row in fitted["paths"] if row["gpu"] == "A100"]
    assert len(paths) == 6
    for row in paths:
        fit = target.fit[row["path"]]
        assert {name: getattr(fit, name) for name in row["fit"]} == row["fit"]
        assert fit.error_p90 == pytest.approx(row["held_out_p90"], abs=1e-3)
        assert fit.source.startswith(fitted["gemms"])
    assert target.engine.model_dump() == fitted["engine"]


def test_every_path_beats_the_naive_roofline_on_workloads_it_has_not_seen(fitted: Any) -> None:
    for row in fitted["paths"]:
        assert row["held_out_mape"] < row["naive_mape"] / 2, row["path"]


def test_held_out_error_on_the_a100_is_at_most_eight_percent(fitted: Any) -> None:
    rows = [row for row in fitted["paths"] if row["gpu"] == "A100"]
    assert sum(row["held_out_mape"] * row["rows"] for row in rows) / sum(row["rows"] for row in rows) <= 0.08
