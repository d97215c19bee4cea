"""Sweeps in the report and on the page: always predicted, with intervals, escaped, and in the published schema."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from gpusq.reports import (
    BatchGain,
    Curve,
    Payoff,
    Sweep,
    SweepPoint,
    html_page,
    merge,
    report_from_json,
    report_to_json,
)
from gpusq.reports.report import build_report
from gpusq.reports.sweep_section import payoff_text, sweep_figures, sweep_views
from tests.reports.sample import CREATED, sample_rows
from tests.reports.test_page import HOSTILE, Reader


def point(batch: int, ms: float) -> SweepPoint:
    return SweepPoint(batch=batch, ms=ms, low_ms=0.8 * ms, high_ms=1.2 * ms)


def payoff(**changes: object) -> Payoff:
    gains = (BatchGain(batch=1, point=0.9, low=0.7, high=1.1), BatchGain(batch=8, point=1.4, low=1.1, high=1.7))
    data = {"change": "2:4", "form": "sparse-int8", "against": "dense-int8", "batch": 4, "sure_batch": None}
    return Payoff.model_validate({**data, "ranges": ((4, 256),), "gains": gains, **changes})


def sweep(**changes: object) -> Sweep:
    curves = tuple(
        Curve(variant=v, points=tuple(point(b, b * f) for b in (1, 8, 256)))
        for v, f in (("dense-fp16", 1.0), ("sparse-fp16", 0.9), ("dense-int8", 0.7), ("sparse-int8", 0.6))
    )
    payoffs = (
        payoff(change="2:4 and INT8", against="dense-fp16"),
        payoff(layers=("blocks.0.fc1", "blocks.1.fc1")),
        payoff(layers=("head",), batch=None, ranges=()),
    )
    data = {"target": "a100-40gb", "device": "A100", "examined": (1, 256), "curves": curves, "payoffs": payoffs}
    return Sweep.model_validate(data | changes)


def report_with(*sweeps: Sweep) -> object:
    return build_report("with sweeps", sample_rows(), sweeps=sweeps, created=CREATED)


def test_the_page_labels_the_section_predicted_and_names_layers_that_do_not_pay() -> None:
    page = Reader(html_page(report_with(sweep())))  # type: ignore[arg-type]
    section = page.text[page.text.index("Predicted: where 2:4 and INT8 pay") :]
    section = section[: section.index("All rows")]
    assert "Nothing here is measured" in section
    assert "sparse does not pay here" in section
    assert "pays from batch 4" in section
    assert "0.90x (0.70 to 1.10)" in section
    assert "2 layers as blocks.0.fc1" in section


def test_a_report_without_sweeps_has_no_such_section() -> None:
    assert "where 2:4 and INT8 pay" not in html_page(report_with())  # type: ignore[arg-type]


def test_figures_are_valid_and_drawn_with_bands_and_open_points() -> None:
    go = pytest.importorskip("plotly.graph_objects")
    figures = sweep_figures([sweep()])
    assert set(figures) == {"sweep-latency-0", "sweep-throughput-0"}
    for figure in figures.values():
        assert len(go.Figure(figure).data) == 3 * 4
        lines = [trace for trace in figure["data"] if trace.get("name")]
        assert {trace["marker"]["symbol"] for trace in lines} == {"circle-open"}
        assert all("predicted" in trace["name"] for trace in lines)
        assert len({trace["line"]["color"] for trace in lines}) == 4
        for low, high, line in zip(*[iter(figure["data"])] * 3, strict=True):
            assert all(a < y < b for a, y, b in zip(low["y"], line["y"], high["y"], strict=True))


def test_hostile_names_are_only_text() -> None:
    bad = sweep(
        target=HOSTILE,
        device=HOSTILE,
        curves=(Curve(variant=HOSTILE, points=(point(1, 1.0),)),),
        payoffs=(payoff(form=HOSTILE, against=HOSTILE), payoff(layers=(HOSTILE, HOSTILE))),
    )
    found = Reader(html_page(report_with(bad)))  # type: ignore[arg-type]
    assert "img" not in found.tags
    assert found.handlers == []
    for text in (t for kind, t in found.scripts if kind == "application/json"):
        assert "<" not in text
        assert "<script" not in json.dumps(json.loads(text)["data"])


def test_sweeps_read_back_and_merge_once() -> None:
    report = report_with(sweep())
    again = report_from_json(report_to_json(report))  # type: ignore[arg-type]
    assert again == report
    assert len(merge([report, again]).sweeps) == 1  # type: ignore[list-item]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data.update(status="measured"),
        lambda data: data["curves"][0]["points"][0].update(low_ms=9e9),
        lambda data: data["curves"][0]["points"][0].pop("low_ms"),
        lambda data: data["payoffs"][0]["gains"][0].pop("low"),
        lambda data: data.update(curves=[]),
    ],
)
def test_a_sweep_is_predicted_and_has_intervals(spoil: object) -> None:
    data = sweep().model_dump(mode="json")
    spoil(data)  # type: ignore[operator]
    with pytest.raises(ValidationError):
        Sweep.model_validate(data)


@pytest.mark.parametrize(
    ("batch", "ranges", "change", "text"),
    [
        (1, ((1, 256),), "2:4", "pays at every batch"),
        (5, ((5, 256),), "INT8", "pays from batch 5"),
        (None, (), "2:4", "sparse does not pay here"),
        (None, (), "INT8", "INT8 does not pay here"),
        (None, ((6, 87), (95, 95)), "2:4", "pays only at batch 6 to 87, 95"),
        (None, ((1, 1), (3, 3), (5, 5), (7, 7)), "2:4", "pays only at batch 1, 3, 5 and 1 further ranges"),
    ],
)
def test_answers_in_words(batch: int | None, ranges: tuple[tuple[int, int], ...], change: str, text: str) -> None:
    assert payoff_text(batch, ranges, change) == text


def test_views_keep_model_and_layers_apart() -> None:
    (view,) = sweep_views([sweep()])
    assert [line.what for line in view.model] == ["whole model"]
    assert [line.css for line in view.layers] == ["pays", "never"]
    assert view.batches == (1, 8)
