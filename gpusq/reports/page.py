"""The report as one self-contained HTML page: plotly.js inside, nothing fetched when it is opened.

A content security policy in the page refuses every load from elsewhere and every script but its own three,
which it names by hash. All text from the report passes through jinja2's autoescape.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from gpusq.reports import charts, sections
from gpusq.reports.report import Report
from gpusq.reports.sweep_section import sweep_figures, sweep_views
from gpusq.reports.view import figure, large, megabytes, percent, short_paths, speedup_text, summary

_TEMPLATE = "page.html.j2"


def html_page(report: Report) -> str:
    """The whole page as text (about 5 MB, nearly all of it plotly.js); equal reports give equal pages."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("gpusq.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": figure, "large": large, "megabytes": megabytes, "percent": percent, "speedup": speedup_text,
    }  # fmt: skip
    scripts = {"plotly": get_plotlyjs(), "draw": _draw_script()}
    return environment.get_template(_TEMPLATE).render(
        report=report,
        title=short_paths(report.title),
        summary=summary(report.verdicts),
        figures=_figures(report),
        scripts=scripts,
        hashes=" ".join(_source_hash(text) for text in scripts.values()),
        **_context(report),
    )


def _context(report: Report) -> dict[str, Any]:
    """The plain data of each section."""
    return {
        "cards": sections.cards(report),
        "accuracy": sections.accuracy(report),
        "sizes": sections.sizes(report),
        "coverages": sections.coverages(report),
        "tree": sections.tree(report.lineage),
        "conditions": sections.conditions(report),
        "layer_groups": sections.layer_groups(report),
        "sweeps": sweep_views(report.sweeps),
        "pictures": [(p.caption, _image_source(p.svg)) for p in report.pictures],
        "row_lines": sections.row_lines(report),
    }


def _figures(report: Report) -> dict[str, str]:
    """Figure id -> JSON that is safe inside a script element."""
    colours = charts.variant_colours(report)
    made: dict[str, charts.Figure] = {}
    for index, target in enumerate(report.targets):
        rows = sections.deployed(report, target)
        made[f"latency-{index}"] = charts.latency_figure(rows, colours)
        made[f"throughput-{index}"] = charts.throughput_figure(rows, colours)
    for group in sections.layer_groups(report):
        made[group.id] = charts.layer_figure(group.times)
    made |= sweep_figures(report.sweeps)
    return {name: _script_json(data) for name, data in made.items()}


def _script_json(data: Any) -> str:
    """JSON without any character that could end a script element or open a comment."""
    text = json.dumps(data, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _image_source(svg: str) -> str:
    """A data URI for an img element, in which no script of an SVG runs."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _source_hash(script: str) -> str:
    """The CSP source expression for an inline script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _draw_script() -> str:
    """The page's own script, kept beside the template."""
    from importlib.resources import files

    return files("gpusq.reports").joinpath("page.js").read_text(encoding="utf-8").replace("\r\n", "\n")
