"""Figures of the page as plain plotly data: built without plotly, drawn by plotly.js in the reader's browser.

Measured points are filled with solid lines, predicted ones open with dotted lines. Text is HTML-escaped, since
plotly reads a subset of HTML in labels. Colours of axes and text are set in the page, which knows the theme.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from gpusq.reports.report import LayerTime, Report
from gpusq.reports.rows import Row
from gpusq.reports.view import figure, latency_bounds

Figure = dict[str, Any]
Values = Callable[[Row], tuple[float, float, float]]
_TWIN_COLOURS = ("#8b93a1", "#3b82c4", "#6f7bd1")
_COLOURS = ("#d9730d", "#0f9d77", "#b3499b", "#c2a500", "#d64545")
BOUND_COLOURS = {"compute": "#d9730d", "memory": "#3b82c4", "launch": "#8b93a1"}
TOP_OPERATORS = 15
_NUMBER = re.compile(r"(?<=\.)\d+(?=[./]|$)")  # a block's index in a dotted name


def variant_colours(report: Report) -> dict[str, str]:
    """A colour per variant: greys and blues for dense twins, strong ones for the compressed."""
    twins = sorted({row.artifact.variant for row in report.rows if row.is_twin}, reverse=True)
    others = dict.fromkeys(row.artifact.variant for row in reversed(report.rows) if not row.is_twin)
    colours = {name: _TWIN_COLOURS[i % len(_TWIN_COLOURS)] for i, name in enumerate(twins)}
    return colours | {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(others)}


def latency_figure(rows: Sequence[Row], colours: dict[str, str]) -> Figure:
    """Latency in ms against batch, bounds as error bars; logarithmic."""
    bounds = [value for row in rows for value in latency_bounds(row)]
    ticks = _ticks(min(bounds, default=1.0), max(bounds, default=1.0))
    axis = {"title": {"text": "latency, ms"}, "type": "log", "tickvals": ticks, "ticktext": [f"{t:g}" for t in ticks]}
    return _batch_figure(rows, colours, axis, lambda row: (row.latency_ms.p50, *latency_bounds(row)))


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten that cover low to high, with one spare on each side."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**p for p in powers for m in (1, 2, 5)]
    return [t for t in ticks if low / 2.5 <= t <= high * 2.5]


def throughput_figure(rows: Sequence[Row], colours: dict[str, str]) -> Figure:
    """Images per second against batch, from zero; relative bounds are those of the latency."""

    def values(row: Row) -> tuple[float, float, float]:
        low, high = latency_bounds(row)
        p50, rate = row.latency_ms.p50, row.throughput_per_s
        return rate, rate * p50 / high, rate * p50 / low

    axis = {"title": {"text": "throughput, images/s"}, "type": "linear", "rangemode": "tozero"}
    return _batch_figure(rows, colours, axis, values)


def _batch_figure(rows: Sequence[Row], colours: dict[str, str], axis: Figure, values: Values) -> Figure:
    """One trace per variant and status; values(row) gives the point, low and high."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda r: r.batch):
        groups.setdefault((row.artifact.variant, row.status), []).append(row)
    batches = sorted({row.batch for row in rows})
    return {
        "data": [_trace(variant, status, mine, colours, values) for (variant, status), mine in groups.items()],
        "layout": {
            "height": 330,
            "margin": {"l": 62, "r": 12, "t": 56, "b": 46},
            "xaxis": {"title": {"text": "batch"}, "type": "log", "tickvals": batches, "ticktext": batches},
            "yaxis": axis,
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 11}},
            "hovermode": "closest",
        },
    }


def _trace(variant: str, status: str, rows: Sequence[Row], colours: dict[str, str], values: Values) -> Figure:
    """Points of one variant; filled where measured, open and dotted where predicted."""
    points = [values(row) for row in rows]
    predicted = status == "predicted"
    colour = colours[variant]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": html.escape(f"{variant}, {status}"),
        "x": [row.batch for row in rows],
        "y": [p for p, _, _ in points],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [high - p for p, _, high in points],
            "arrayminus": [p - low for p, low, _ in points],
            "thickness": 1.4,
            "width": 4,
            "color": colour,
        },
        "text": [f"{figure(low)} to {figure(high)}" for _, low, high in points],
        "hovertemplate": "batch %{x}<br>%{y:.4g} (%{text})<extra>" + html.escape(f"{variant}, {status}") + "</extra>",
        "line": {"color": colour, "width": 2, "dash": "dot" if predicted else "solid"},
        "marker": {
            "size": 9,
            "color": colour,
            "symbol": "circle-open" if predicted else "circle",
            "line": {"width": 2},
        },
    }


def layer_figure(times: Sequence[LayerTime]) -> Figure:
    """Time in microseconds by kind of operator, coloured by what bounds it; the smallest in one bar.

    Operators whose names differ only in numbers (the blocks of a transformer) are added up under one name.
    """
    groups: dict[tuple[str, str], list[LayerTime]] = {}
    for time in times:
        groups.setdefault((_NUMBER.sub("*", time.name), time.bound), []).append(time)
    ranked = sorted(groups.items(), key=lambda item: -sum(t.us for t in item[1]))
    bars = [_bar(f"{name}  x{len(mine)}" if len(mine) > 1 else name, bound, mine) for (name, bound), mine in ranked]
    rest = [time for _, mine in ranked[TOP_OPERATORS:] for time in mine]
    bars = bars[:TOP_OPERATORS] + ([_bar(f"{len(rest)} further operators", "various", rest)] if rest else [])
    return {
        "data": bars,
        "layout": {
            "height": 70 + 26 * len(bars),
            "margin": {"l": 260, "r": 60, "t": 8, "b": 44},
            "showlegend": False,
            "barmode": "stack",
            "bargap": 0.3,
            "xaxis": {"title": {"text": "predicted microseconds per batch"}, "type": "linear"},
            "yaxis": {"autorange": "reversed", "type": "category"},
        },
    }


def _bar(name: str, bound: str, times: Sequence[LayerTime]) -> Figure:
    """One horizontal bar with its share written beside it."""
    return {
        "type": "bar",
        "orientation": "h",
        "name": bound,
        "y": [html.escape(name)],
        "x": [sum(t.us for t in times)],
        "text": [f"{100 * min(1.0, sum(t.share for t in times)):.1f} %"],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": BOUND_COLOURS.get(bound, "#c9ced6")},
        "hovertemplate": "%{y}<br>%{x:.3g} us, %{text}, " + bound + "<extra></extra>",
    }
