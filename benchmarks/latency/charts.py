"""Small SVG pictures of residuals, written by hand: light background, the same on every machine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

import numpy as np

from latency.data import Floats

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 64, 190, 34, 48
COLOURS = ("#0b6e99", "#c0392b", "#2e7d32", "#8e44ad", "#d68910", "#111111", "#7f8c8d", "#ad1457")
GRID, INK = "#d8d8d8", "#222222"


@dataclass(frozen=True)
class Series:
    """Points of one colour; joined: a line through them."""

    name: str
    x: Floats
    y: Floats
    joined: bool = False


@dataclass(frozen=True)
class Axis:
    """One axis; logarithmic ticks are powers of ten."""

    title: str
    least: float
    most: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """0 to 1 along the axis, cut off at its ends."""
        if self.logarithmic:
            share = math.log(max(value, 1e-12) / self.least) / math.log(self.most / self.least)
        else:
            share = (value - self.least) / (self.most - self.least)
        return min(max(share, 0.0), 1.0)

    def ticks(self) -> list[float]:
        """Values to label."""
        if not self.logarithmic:
            return [float(t) for t in np.linspace(self.least, self.most, 5)]
        first, last = math.ceil(math.log10(self.least) - 1e-9), math.floor(math.log10(self.most) + 1e-9)
        return [10.0**power for power in range(first, last + 1)]


def scatter(title: str, x: Axis, y: Axis, series: list[Series], guides: tuple[float, ...] = ()) -> str:
    """An SVG of points and lines with a legend; guides: horizontal lines at these values of y."""
    parts = [_text(WIDTH / 2 - 60, 20, title, size=15, anchor="middle"), *_frame(x, y)]
    for value in guides:
        at = _down(y, value)
        ends = f'x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"'
        parts.append(f'<line {ends} stroke="{INK}" stroke-dasharray="4 3"/>')
    for index, one in enumerate(series):
        parts += _series(one, COLOURS[index % len(COLOURS)], x, y)
        parts += _legend(index, one.name)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    back = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", back, *parts, "</svg>"]) + "\n"


def _across(axis: Axis, value: float) -> float:
    return round(LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT), 1)


def _down(axis: Axis, value: float) -> float:
    return round(HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM), 1)


def _frame(x: Axis, y: Axis) -> list[str]:
    parts = []
    for tick in x.ticks():
        at = _across(x, tick)
        parts.append(f'<line x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="{GRID}"/>')
        parts.append(_text(at, HEIGHT - BOTTOM + 16, f"{tick:g}", anchor="middle"))
    for tick in y.ticks():
        at = _down(y, tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}" stroke="{GRID}"/>')
        parts.append(_text(LEFT - 6, at + 4, f"{tick:g}", anchor="end"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x.title, anchor="middle"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<g transform="translate(16 {middle}) rotate(-90)">{_text(0, 0, y.title, anchor="middle")}</g>')
    return parts


def _series(one: Series, colour: str, x: Axis, y: Axis) -> list[str]:
    points = [(_across(x, a), _down(y, b)) for a, b in zip(one.x.tolist(), one.y.tolist(), strict=True)]
    dots = "".join(f'<circle cx="{a}" cy="{b}" r="2.2"/>' for a, b in points)
    parts = [f'<g fill="{colour}" fill-opacity="0.55">{dots}</g>']
    if one.joined:
        path = " ".join(f"{a},{b}" for a, b in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
    return parts


def _legend(index: int, name: str) -> list[str]:
    top = TOP + 8 + 18 * index
    colour = COLOURS[index % len(COLOURS)]
    return [
        f'<circle cx="{WIDTH - RIGHT + 14}" cy="{top}" r="4" fill="{colour}"/>',
        _text(WIDTH - RIGHT + 24, top + 4, name),
    ]


def _text(x: float, y: float, text: str, size: int = 12, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{INK}" text-anchor="{anchor}">{escape(text)}</text>'
