"""The report in a terminal: one table of 100 columns, grouped by target, predictions marked twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpusq.reports.report import Report
from gpusq.reports.rows import Row
from gpusq.reports.sections import coverages
from gpusq.reports.view import figure, latency_bounds, percent, row_key, speedups

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_STYLE = {"ship": "bold green", "do not ship": "bold red", "undecided": "bold yellow"}


def terminal_table(report: Report) -> Table:
    """Rows grouped by target; verdicts, cautions and transformer parts as the caption.

    Predicted rows carry "~" and the word predicted. Cells are `rich.text.Text`, so brackets in names are shown, not
    read as markup.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    widest = max((len(row.artifact.variant) for row in report.rows), default=0)
    table = Table(
        title=Text(report.title),
        pad_edge=False,
        collapse_padding=True,
        caption=_caption(report),
        box=box.SIMPLE_HEAD,
        caption_justify="left",
    )
    table.add_column("variant", overflow="fold", min_width=min(widest, 20))
    table.add_column("stage", overflow="fold", min_width=6)
    for name in ("batch", "ms", "bounds", "images/s", "speed-up", "accuracy", "MB"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    gains = speedups(report)
    for target in report.targets:
        table.add_row(Text(target, style="bold"))
        for row in report.rows:
            if row.target == target:
                gain = gains.get(row_key(row))
                table.add_row(*_cells(row, f"{gain[0].point:.2f}x" if gain else ""))
        table.add_section()
    return table


def _cells(row: Row, speedup: str) -> list[Text]:
    """One row; "~" before every predicted figure."""
    from rich.text import Text

    mark = "~" if row.status == "predicted" else ""
    low, high = latency_bounds(row)
    cells = [
        row.artifact.variant,
        row.artifact.stage,
        str(row.batch),
        mark + figure(row.latency_ms.p50),
        f"{figure(low)}-{figure(high)}",
        mark + figure(row.throughput_per_s),
        mark + speedup if speedup else "",
        f"{100 * row.accuracy.value:.2f} %" if row.accuracy else "",
        figure(row.size.bytes / 1e6) if row.size else "",
        row.status,
    ]
    style = "dim" if row.is_twin else ""
    return [Text(cell, style="italic cyan" if cell == "predicted" else style) for cell in cells]


def _caption(report: Report) -> Text:
    """One line per verdict, decision first; then one per caution and per coverage of a transformer part."""
    from rich.text import Text

    caption = Text()
    for v in report.verdicts:
        caption.append(f"{v.target} {v.variant}: ", style="not italic")
        caption.append(v.decision.upper(), style=f"not italic {_STYLE[v.decision]}")
        caption.append(f" ({v.basis}). {v.reason}\n", style="not italic")
    for text in report.cautions:
        caption.append(f"mind: {text}\n", style="not italic yellow")
    for covered in coverages(report):
        if part := covered.transformer:
            shares = f"{percent(part.sparse)} of it sparse, {percent(part.int8)} INT8"
            whole = f"transformer part, {percent(part.share)} of the multiply-accumulates"
            caption.append(f"{', '.join(covered.variants)}: {whole}: {shares}\n", style="not italic")
    return caption
