"""The committed fit, the shipped target files and what the code computes from the measurements say the same."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from gpusq.targets import load_target

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RESULTS = BENCHMARKS / "results" / "latency_fit.json"


@pytest.fixture(scope="module")
def fitted() -> Any:
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def rows_of(fitted: Any, gpu: str) -> list[Any]:
    return [row for row in fitted["paths"] if row["gpu"] == gpu]


@pytest.mark.parametrize(("gpu", "name", "paths"), [("A100", "a100", 6), ("H100", "h100", 7)])
def test_the_target_files_hold_the_committed_fit(fitted: Any, gpu: str, name: str, paths: int) -> None:
    target, rows = load_target(name), rows_of(fitted, gpu)
    assert len(rows) == paths
    for row in rows:
        fit = target.fit[row["path"]]
        assert fit.model_dump(mode="json", exclude={"source"}) == row["fit"]
        assert fit.source.startswith(fitted["gemms"])


def test_the_engines_are_the_committed_ones(fitted: Any) -> None:
    assert load_target("a100").engine.model_dump() == fitted["engine"]
    assert load_target("agx-orin").engine.model_dump() == fitted["orin"]["engine"]
    carried = load_target("h100").engine
    assert carried.kernel_us == fitted["engine"]["kernel_us"]
    assert carried.error_p90 > fitted["engine"]["error_p90"]


def test_every_path_beats_the_peak_roofline_on_workloads_it_has_not_seen(fitted: Any) -> None:
    for row in fitted["paths"]:
        assert row["held_out_mape"] < row["naive_mape"] / 2, row["path"]


@pytest.mark.parametrize(("gpu", "most"), [("A100", 0.08), ("H100", 0.12)])
def test_held_out_errors_of_gemms(fitted: Any, gpu: str, most: float) -> None:
    rows = rows_of(fitted, gpu)
    assert sum(row["held_out_mape"] * row["rows"] for row in rows) / sum(row["rows"] for row in rows) <= most
    if gpu == "A100":
        assert max(row["held_out_mape"] for row in rows) <= 0.10


@pytest.mark.parametrize("gpu", ["A100", "H100"])
def test_nine_of_ten_held_out_gemms_lie_in_the_interval(fitted: Any, gpu: str) -> None:
    rows = rows_of(fitted, gpu)
    assert 0.85 <= sum(row["coverage"] * row["rows"] for row in rows) / sum(row["rows"] for row in rows) <= 0.95


def test_transfer_and_whole_models(fitted: Any) -> None:
    assert fitted["transfer_all"]["H100 to A100"] <= 0.18
    for way, figures in fitted["across"].items():
        assert figures["mape"] <= 0.12, way
        assert figures["p90"] <= 0.25, way
    assert 0.85 <= fitted["models"]["coverage"] <= 0.95


def test_orin_rows_left_out_with_their_group(fitted: Any) -> None:
    held = fitted["orin"]["by_group"]
    assert held["rows"] >= 20
    assert held["mape"] <= 0.30
    assert held["coverage"] >= 0.8


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The rooms of the study, imported as its scripts do: (data, gemms, models)."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return tuple(importlib.import_module(f"latency.{name}") for name in ("data", "gemms", "models"))


@pytest.mark.parametrize(("gpu", "path"), [("A100", "int8/2:4"), ("A100", "fp16/dense"), ("H100", "fp8/dense")])
def test_the_committed_held_out_error_is_what_the_code_gives(fitted: Any, study: Any, gpu: str, path: str) -> None:
    data, gemms, _ = study
    held = gemms.mape(gemms.leave_one_out(data.read_tables()[gpu, path]))
    (row,) = (row for row in rows_of(fitted, gpu) if row["path"] == path)
    assert held == pytest.approx(row["held_out_mape"], abs=1e-4)


def test_the_committed_error_across_runtimes_is_what_the_code_gives(fitted: Any, study: Any) -> None:
    data, gemms, models = study
    rows = data.read_models()
    ait, bert = ([row for row in rows if row.runtime == name] for name in ("AITemplate", "TensorRT demoBERT"))
    held = models.across(ait, bert, load_target("a100"))
    committed = fitted["across"]["fitted on AITemplate, tested on demoBERT"]
    assert len(held.ln) == committed["rows"]
    assert gemms.mape(held.ln) == pytest.approx(committed["mape"], abs=1e-4)
