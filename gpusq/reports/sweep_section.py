"""The page's section on predicted batch curves: figures with interval bands, and the table of break-even batches."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpusq.reports.sweep import Curve, Payoff, Sweep, SweepPoint
from gpusq.reports.view import figure

Figure = dict[str, Any]
Triple = tuple[float, float, float]
_COLOURS = {"dense": ("#8b93a1", "#3b82c4"), "sparse": ("#d9730d", "#0f9d77")}
_BAND_ALPHA = "22"  # hexadecimal opacity behind a colour


def sweep_figures(sweeps: Sequence[Sweep]) -> dict[str, Figure]:
    """Figure id -> latency and throughput against batch for each target."""
    made: dict[str, Figure] = {}
    for index, sweep in enumerate(sweeps):
        made[f"sweep-latency-{index}"] = _figure(sweep, "latency, ms", "log", lambda p: (p.low_ms, p.ms, p.high_ms))
        made[f"sweep-throughput-{index}"] = _figure(sweep, "throughput, images/s", "log", _throughput)
    return made


def _throughput(point: SweepPoint) -> Triple:
    low, middle, high = (point.batch * 1e3 / ms for ms in (point.high_ms, point.ms, point.low_ms))
    return low, middle, high


def _figure(sweep: Sweep, title: str, scale: str, values: Callable[[SweepPoint], Triple]) -> Figure:
    batches = sorted({point.batch for curve in sweep.curves for point in curve.points})
    return {
        "data": [trace for curve in sweep.curves for trace in _traces(curve, values)],
        "layout": {
            "height": 360,
            "margin": {"l": 62, "r": 12, "t": 56, "b": 46},
            "xaxis": {"title": {"text": "batch"}, "type": "log", "tickvals": batches, "ticktext": batches},
            "yaxis": {"title": {"text": f"predicted {title}"}, "type": scale, "nticks": 8},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 11}},
            "hovermode": "closest",
        },
    }


def _traces(curve: Curve, values: Callable[[SweepPoint], Triple]) -> list[Figure]:
    """A band from low to high, and an open dotted line as all predictions have it."""
    triples = [values(point) for point in curve.points]
    x, colour, name = [p.batch for p in curve.points], _colour(curve.variant), html.escape(curve.variant)
    edge = {"type": "scatter", "mode": "lines", "x": x, "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    return [
        {**edge, "y": [low for low, _, _ in triples]},
        {**edge, "y": [high for _, _, high in triples], "fill": "tonexty", "fillcolor": colour + _BAND_ALPHA},
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": f"{name}, predicted",
            "x": x,
            "y": [middle for _, middle, _ in triples],
            "text": [f"{figure(low)} to {figure(high)}" for low, _, high in triples],
            "hovertemplate": f"batch %{{x}}<br>%{{y:.4g}} (%{{text}})<extra>{name}, predicted</extra>",
            "line": {"color": colour, "width": 2, "dash": "dot"},
            "marker": {"size": 7, "color": colour, "symbol": "circle-open", "line": {"width": 2}},
        },
    ]


def _colour(variant: str) -> str:
    form, _, precision = variant.partition("-")
    return _COLOURS.get(form, _COLOURS["dense"])[precision == "int8"]


@dataclass(frozen=True)
class PayoffLine:
    """One line of the table; css: "pays", "partly" or "never"."""

    what: str
    names: tuple[str, ...]
    compared: str
    answer: str
    sure: str
    gains: tuple[str, ...]
    css: str


@dataclass(frozen=True)
class SweepView:
    """What the template shows of one target."""

    sweep: Sweep
    batches: tuple[int, ...]
    model: tuple[PayoffLine, ...]
    layers: tuple[PayoffLine, ...]


def sweep_views(sweeps: Sequence[Sweep]) -> list[SweepView]:
    """The tables, in the order of the sweeps."""
    found = []
    for sweep in sweeps:
        batches = tuple(dict.fromkeys(g.batch for p in sweep.payoffs for g in p.gains))
        lines = [(payoff, _line(payoff, sweep)) for payoff in sweep.payoffs]
        model = tuple(line for payoff, line in lines if not payoff.layers)
        layers = tuple(line for payoff, line in lines if payoff.layers)
        found.append(SweepView(sweep, batches, model, layers))
    return found


def _line(payoff: Payoff, sweep: Sweep) -> PayoffLine:
    names = payoff.layers
    what = "whole model" if not names else names[0] if len(names) == 1 else f"{len(names)} layers as {names[0]}"
    return PayoffLine(
        what=what,
        names=names,
        compared=f"{payoff.change}: {payoff.form} against {payoff.against}",
        answer=payoff_text(payoff.batch, payoff.ranges, payoff.change),
        sure=f"from batch {payoff.sure_batch}" if payoff.sure_batch else "not certain at the largest batch",
        gains=tuple(f"{g.point:.2f}x ({g.low:.2f} to {g.high:.2f})" for g in payoff.gains),
        css="pays" if payoff.batch is not None else "partly" if payoff.ranges else "never",
    )


def payoff_text(batch: int | None, ranges: Sequence[tuple[int, int]], change: str) -> str:
    """ "pays from batch 5", "pays only at batch 6 to 87", "2:4 does not pay here"."""
    if batch is not None:
        return "pays at every batch" if batch == 1 else f"pays from batch {batch}"
    if not ranges:
        return "sparse does not pay here" if change == "2:4" else f"{change} does not pay here"
    spans = [str(first) if first == last else f"{first} to {last}" for first, last in ranges]
    more = f" and {len(spans) - 3} further ranges" if len(spans) > 3 else ""
    return f"pays only at batch {', '.join(spans[:3])}{more}"
