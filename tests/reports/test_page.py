"""The page: self-contained, escaped, labelled; the table: fits and labelled."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from gpusq.reports import charts, sections
from gpusq.reports.page import html_page
from gpusq.reports.report import LayerTime, Lineage, Report, build_report, report_to_json
from gpusq.reports.table import terminal_table
from gpusq.reports.view import figure, large, percent, short_paths, summary
from tests.reports.sample import detector_rows, row, sample_report, sample_rows

HOSTILE = "</script><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)> {{ 7*7 }} [bold]"
LOADING = {"src", "href", "srcset", "data", "poster", "action", "xlink:href", "background"}


class Reader(HTMLParser):
    """Collects elements, what they load, visible text and scripts."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.scripts: list[tuple[str, str]] = []
        self.styles = ""
        self.policy = ""
        self.text = ""
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = {name: value or "" for name, value in attrs}
        self.loads += [value for name, value in values.items() if name in LOADING]
        self.handlers += [name for name in values if name.startswith("on")]
        self.styles += values.get("style", "")
        if tag == "meta" and values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"]
        if tag in ("script", "style"):
            self._inside = tag
        if tag == "script":
            self.scripts.append((values.get("type", ""), ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)
        elif self._inside == "style":
            self.styles += data
        else:
            self.text += data


@pytest.fixture(scope="module")
def page(report: Report) -> Reader:
    return Reader(html_page(report))


def hostile_report() -> Report:
    """Every free text of a report set to something that must not be obeyed."""
    made = row("a100", "sparse-int8", 1, 2.0)
    ref = made.artifact.model_copy(update={"variant": HOSTILE, "digest": HOSTILE, "stage": HOSTILE})
    conditions = made.conditions.model_copy(update={"device": HOSTILE, "libraries": {HOSTILE: HOSTILE}})
    changes = {"artifact": ref, "target": HOSTILE, "note": HOSTILE, "runtime": HOSTILE, "conditions": conditions}
    twin = {k: v for k, v in changes.items() if k != "artifact"}
    return build_report(
        HOSTILE,
        [made.model_copy(update=changes), row("a100", "dense-fp16", 1, 3.0).model_copy(update=twin)],
        lineage=[Lineage(kind=HOSTILE, stage=HOSTILE, digest=HOSTILE, key=HOSTILE, path=HOSTILE, target=HOSTILE)],
        layer_times=[LayerTime(name=HOSTILE, us=1, bound="memory", share=1, target=HOSTILE, batch=1, variant=HOSTILE)],
        notes=[HOSTILE],
    )


def test_nothing_is_loaded_from_anywhere(page: Reader) -> None:
    assert [load for load in page.loads if not load.startswith("#")] == []
    assert not {"link", "img", "iframe", "object", "embed", "base"} & set(page.tags)
    assert "url(" not in page.styles
    assert "@import" not in page.styles


def test_the_policy_names_exactly_the_scripts_of_the_page(page: Reader) -> None:
    assert page.policy.startswith("default-src 'none'")
    assert "http" not in page.policy
    run = [text for kind, text in page.scripts if kind != "application/json"]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run]
    assert sorted(re.findall(r"'sha256-([^']+)'", page.policy)) == sorted(hashes)
    assert len(run) == 2


def test_every_figure_has_its_place_and_is_valid(page: Reader, report: Report) -> None:
    go = pytest.importorskip("plotly.graph_objects")
    data = [json.loads(text) for kind, text in page.scripts if kind == "application/json"]
    assert len(data) == 2 * len(report.targets) + 1
    for entry in data:
        assert go.Figure(entry).data


def test_hostile_names_are_only_text() -> None:
    found = Reader(html_page(hostile_report()))
    assert "img" not in found.tags
    assert found.handlers == []
    assert found.text.count("<script>alert(1)</script>") > 5
    assert "{{ 7*7 }}" in found.text
    assert len([kind for kind, _ in found.scripts if kind != "application/json"]) == 2
    for text in (t for kind, t in found.scripts if kind == "application/json"):
        assert "<" not in text
        for trace in json.loads(text)["data"]:
            assert "<script" not in json.dumps(trace)


def test_verdicts_and_their_basis_come_first(page: Reader) -> None:
    head = page.text[: page.text.index("Latency and throughput against batch")]
    assert "Ship on a100 (predicted)" in head
    assert "do not ship on cpu (measured)" in head
    assert head.count("predicted, not measured") == head.count("if the prediction holds") == 1


def test_notes_stand_below_the_verdicts_and_cautions_before_them() -> None:
    made = build_report("t", sample_rows(), notes=["a neutral figure"], cautions=["a limit of the verdict"])
    text, html = Reader(html_page(made)).text, html_page(made)
    places = [text.index(part) for part in ("Ship means", "a limit of the verdict", "a neutral figure", "Terms")]
    assert places == sorted(places)
    assert '<p class="note caution">a limit of the verdict' in html
    assert '<p class="note">a neutral figure' in html
    assert re.search(r"\.note { border-left: 3px solid var\(--line\)", html)


def test_the_card_shows_the_interval_of_the_accuracy_change(page: Reader, report: Report) -> None:
    for v in report.verdicts:
        assert v.accuracy is not None
        assert f"90 % interval of the change {v.accuracy.low:+.2f} to {v.accuracy.high:+.2f}" in page.text


def test_the_status_is_one_word_on_one_line(report: Report) -> None:
    html = html_page(report)
    assert html.count('<td class="word">predicted</td>') >= 10
    assert ".data td.word { overflow-wrap: normal; white-space: nowrap; }" in html


def test_the_heading_shows_the_last_part_of_a_path_and_the_json_all_of_it() -> None:
    made = build_report("/home/me/my models/m.py:small on coco:/home/me/aerial", sample_rows())
    html = html_page(made)
    assert "<h1>.../m.py:small on coco:.../aerial</h1>" in html
    assert "<title>.../m.py:small on coco:.../aerial</title>" in html
    assert "/home/me" not in html
    assert "/home/me/my models/m.py" in report_to_json(made)


@pytest.mark.parametrize("title", ["new:vit-test on digits", "hf:./a on b/c", "engine 0123abcd"])
def test_titles_without_absolute_paths_stay(title: str) -> None:
    assert short_paths(title) == title


def test_the_table_ends_with_the_cautions(report: Report) -> None:
    told = rendered(report.model_copy(update={"cautions": ("scores have moved",)}), 100)
    assert told.index("cpu sparse-int8: DO NOT SHIP") < told.index("mind: scores have moved")


def test_predicted_points_are_open_and_measured_ones_filled(report: Report) -> None:
    rows = sections.deployed(report, "agx-orin")
    made = charts.latency_figure(rows, charts.variant_colours(report))
    symbols = {trace["name"].split(", ")[1]: trace["marker"]["symbol"] for trace in made["data"]}
    assert symbols == {"predicted": "circle-open", "measured": "circle"}
    assert all(min(trace["error_y"]["array"] + trace["error_y"]["arrayminus"]) >= 0 for trace in made["data"])


def test_equal_reports_give_equal_pages() -> None:
    assert html_page(sample_report()) == html_page(sample_report())


def test_a_bare_report_has_a_page() -> None:
    bare = row("cpu", "dense-fp32", 1, 2.0, "measured", accuracy=None, size=None, compute=None, coverage=None)
    assert "No compressed variant to judge" in Reader(html_page(build_report("bare", [bare]))).text
    assert "bare" in html_page(build_report("bare", []))


def test_coverage_parts_make_a_whole(report: Report) -> None:
    for covered in sections.coverages(report):
        parts = (covered.both, covered.sparse_only, covered.int8_only, covered.neither)
        assert sum(parts) == pytest.approx(1)
        assert min(parts) >= 0


def test_the_transformer_part_has_its_line_and_its_term() -> None:
    made = build_report("detector", detector_rows())
    (covered,) = sections.coverages(made)  # the twin's is not shown
    part = covered.transformer
    assert part is not None
    text = " ".join(Reader(html_page(made)).text.split())
    line = f"Transformer part, {percent(part.share)} of the multiply-accumulates: {percent(part.sparse)} of it sparse"
    assert f"{line}, {percent(part.int8)} INT8" in text
    assert "transformer partThe linear layers (patch embedding included)" in text[text.index("Terms and conv") :]
    table = " ".join(rendered(made, 100).split())
    assert f"sparse-int8: {line[0].lower()}{line[1:]}, {percent(part.int8)} INT8" in table


def test_without_convolutions_nothing_is_said_of_a_part(page: Reader, report: Report) -> None:
    assert "transformer part" not in page.text.lower()
    assert "transformer part" not in rendered(report, 100)


def test_blocks_are_added_up_by_name(report: Report) -> None:
    made = charts.layer_figure(report.layer_times)
    assert sum(trace["x"][0] for trace in made["data"]) == pytest.approx(sum(t.us for t in report.layer_times))
    assert made["data"][0]["y"] == ["encoder.layers.*.mlp.fc1  x12"]


def test_lineage_lists_everything_once_and_survives_a_cycle(report: Report) -> None:
    lines = sections.tree(report.lineage)
    assert sorted(e.digest for _, e in lines) == sorted(e.digest for e in report.lineage)
    loop = [Lineage(kind="x", stage="X", digest=d, key=d, path="", parents=(p,)) for d, p in (("a", "b"), ("b", "a"))]
    assert {e.digest for _, e in sections.tree(loop)} == {"a", "b"}


def rendered(report: Report, width: int) -> str:
    console = Console(width=width, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as capture:
        console.print(terminal_table(report))
    return capture.get()


@pytest.mark.parametrize("width", [100, 120])
def test_the_table_fits_and_marks_predictions_twice(report: Report, width: int) -> None:
    lines = rendered(report, width).splitlines()
    assert max(len(line) for line in lines) <= width
    assert not any("\u2026" in line for line in lines)
    predicted = [line for line in lines if line.rstrip().endswith("predicted")]
    measured = [line for line in lines if line.rstrip().endswith("measured")]
    assert len(predicted) + len(measured) == len(report.rows)
    assert all("~" in line for line in predicted)
    assert not any("~" in line for line in measured)


def test_the_table_shows_brackets_as_text() -> None:
    assert "[bold]" in "".join(rendered(hostile_report(), 120).split())


@pytest.mark.parametrize(
    ("value", "text"), [(0.01234, "0.0123"), (1.234, "1.23"), (99.96, "100."), (123.4, "123"), (12345.6, "12,346")]
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert figure(value).rstrip(".") == text.rstrip(".")


def test_small_words() -> None:
    assert (large(22_050_664), percent(0.0001), percent(0.0)) == ("22.1 M", "< 0.1 %", "0.0 %")
    assert summary(()) == "No compressed variant to judge."
