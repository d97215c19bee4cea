"""A row is measured or predicted, completely, or it is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gpusq.errors import ArtifactError
from gpusq.reports.rows import Conditions, Coverage, Latency, Row, rows_from_json
from tests.reports.sample import row, row_data


@pytest.mark.parametrize("status", ["measured", "predicted"])
def test_flipping_the_label_is_caught(status: str) -> None:
    data = row_data("cpu", "sparse-int8", 8, 4.0, status)
    Row.model_validate(data)
    data["status"] = "predicted" if status == "measured" else "measured"
    with pytest.raises(ValidationError, match="row needs latency_ms"):
        Row.model_validate(data)


@pytest.mark.parametrize("field", ["p90", "p99", "n", "warmup"])
def test_measured_needs_its_evidence(field: str) -> None:
    data = row_data("cpu", "sparse-int8", 8, 4.0, "measured")
    del data["latency_ms"][field]
    with pytest.raises(ValidationError, match=f"a measured row needs latency_ms.{field}"):
        Row.model_validate(data)


@pytest.mark.parametrize("field", ["low", "high"])
def test_predicted_needs_its_interval(field: str) -> None:
    data = row_data("a100", "sparse-int8", 8, 4.0)
    del data["latency_ms"][field]
    with pytest.raises(ValidationError, match=f"a predicted row needs latency_ms.{field}"):
        Row.model_validate(data)


@pytest.mark.parametrize(
    ("status", "extra"),
    [
        ("measured", {"low": 3.9}),
        ("measured", {"low": 3.9, "high": 4.1}),
        ("predicted", {"p90": 4.1}),
        ("predicted", {"p99": 4.2}),
        ("predicted", {"n": 10}),
        ("predicted", {"warmup": 0}),
        ("predicted", {"noise_low": 3.9, "noise_high": 4.1}),
    ],
)
def test_mixed_evidence_is_refused(status: str, extra: dict[str, float]) -> None:
    data = row_data("cpu", "sparse-int8", 8, 4.0, status)
    data["latency_ms"] |= extra
    with pytest.raises(ValidationError, match=f"a {status} row must not carry"):
        Row.model_validate(data)


@pytest.mark.parametrize(
    "values",
    [
        {"p50": 2.0, "p90": 1.0},
        {"p50": 2.0, "p90": 3.0, "p99": 2.5},
        {"p50": 2.0, "low": 2.1, "high": 3.0},
        {"p50": 2.0, "low": 1.0, "high": 1.9},
        {"p50": 2.0, "noise_low": 1.9},
        {"p50": 0.0},
        {"p50": float("nan")},
        {"p50": float("inf")},
        {"p50": 1.0, "n": 0},
    ],
)
def test_latency_refuses_disorder(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Latency.model_validate(values)


def test_noise_bounds_belong_to_measured_rows() -> None:
    data = row_data("cpu", "sparse-int8", 8, 4.0, "measured")
    data["latency_ms"] |= {"noise_low": 3.99, "noise_high": 4.01}
    assert Row.model_validate(data).latency_ms.noise_high == 4.01


@pytest.mark.parametrize("name", ["conditions", "status", "runtime", "latency_ms", "input_shape"])
def test_no_row_without_its_conditions(name: str) -> None:
    data = row_data("cpu", "sparse-int8", 8, 4.0)
    del data[name]
    with pytest.raises(ValidationError, match=name):
        Row.model_validate(data)


@pytest.mark.parametrize(
    "change",
    [
        {"surprise": 1},
        {"status": "estimated"},
        {"batch": 0},
        {"precision": "int7"},
        {"sparsity": "1:2"},
        {"throughput_per_s": 0},
        {"accuracy": {"metric": "top1", "value": 80.1, "n": 5, "split": "val", "how": "x"}},
    ],
)
def test_bad_values_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Row.model_validate(row_data("cpu", "sparse-int8", 8, 4.0) | change)


def test_rows_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        row("cpu", "sparse-int8", 8, 4.0).status = "measured"


@pytest.mark.parametrize("date", ["yesterday", "2026-1-2", "2026-01-02T03:04:05", "2026-01-02T03:04:05+02:00"])
def test_dates_are_iso_utc(date: str) -> None:
    with pytest.raises(ValidationError, match="date"):
        Conditions(device="x", libraries={}, date=date)


def test_coverage_is_part_of_a_whole() -> None:
    gap = {"name": "a", "share": 0.5, "reason": "why"}
    with pytest.raises(ValidationError, match="more than 1"):
        Coverage.model_validate({"sparse": 0.8, "int8": 0.1, "dense": [gap], "float": []})


@pytest.mark.parametrize(
    "part",
    [
        {"share": 0.5, "sparse": 1.0, "int8": 0.2},  # more inside than in the whole
        {"share": 0.9, "sparse": 0.4, "int8": 0.0},  # more outside than there is room for
        {"share": 1.5, "sparse": 0.1, "int8": 0.1},
        {"share": 0.5, "sparse": 0.5},
    ],
)
def test_the_transformer_part_fits_into_the_whole(part: dict[str, float]) -> None:
    whole = {"sparse": 0.4, "int8": 0.2, "dense": [], "float": []}
    fits = Coverage.model_validate(whole | {"transformer": {"share": 0.5, "sparse": 0.7, "int8": 0.4}})
    assert fits.transformer is not None
    with pytest.raises(ValidationError, match=r"does not hold|less than or equal|required"):
        Coverage.model_validate(whole | {"transformer": part})


def test_only_dense_floating_point_is_a_twin() -> None:
    assert row("a100", "dense-fp16", 1, 1.0).is_twin
    assert not row("a100", "sparse-fp16", 1, 1.0).is_twin
    assert not row("a100", "dense-fp16", 1, 1.0, precision="int8").is_twin


def test_rows_from_json_names_the_place() -> None:
    good = row("cpu", "sparse-int8", 1, 2.0).model_dump(mode="json")
    assert rows_from_json([good]) == (row("cpu", "sparse-int8", 1, 2.0),)
    with pytest.raises(ArtifactError, match=r"bench.json, row 1.* must not carry|bench.json, row 1.* needs"):
        rows_from_json([good, good | {"status": "measured"}], "bench.json")
