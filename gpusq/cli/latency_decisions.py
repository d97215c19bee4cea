"""Where compression pays, as a table and in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpusq.latency.break_even import BreakEven
    from gpusq.latency.decisions import Decisions

DECIDED_AT = (1, 8, 64)


def decision_table(decisions: Decisions) -> Any:
    from rich.table import Table

    from gpusq.forecast import alike

    first, last = decisions.examined[0], decisions.examined[-1]
    title = f"{decisions.target}: where compression pays, predicted, batches {first} to {last}"
    table = Table(title=title, title_justify="left")
    for name in ("layer", "compared", "answer", *(f"batch {batch}" for batch in DECIDED_AT)):
        table.add_column(name, justify="right" if name.startswith("batch") else "left", overflow="fold")
    for found in decisions.model:
        table.add_row(*_decision_cells([found]))
    table.add_section()
    for group in alike(decisions.layers):
        table.add_row(*_decision_cells(group))
    return table


def _decision_cells(group: list[BreakEven]) -> list[str]:
    from gpusq.forecast import without_index
    from gpusq.reports.sweep_section import payoff_text

    first = group[0]
    name = without_index(first.layer) if len(group) > 1 else first.layer
    label = f"{name} x{len(group)}" if len(group) > 1 else name or "whole model"
    compared = first.change if first.layer else f"{first.form} / {first.against}"
    gains = (first.gain_at(batch) for batch in DECIDED_AT)
    cells = [f"{gain.point:.2f} ({gain.low:.2f}-{gain.high:.2f})" if gain else "" for gain in gains]
    sure = f"; lower bound from {first.sure_batch}" if first.sure_batch else ""
    return [label, compared, payoff_text(first.batch, first.ranges, first.change) + sure, *cells]


def verdict_lines(decisions: Decisions, batches: Sequence[int]) -> list[str]:
    """The fully compressed form against the dense float twin at each batch asked for, in words."""
    lines = []
    whole = decisions.model[0]
    for batch in batches:
        gain = whole.gain_at(batch)
        if gain is None:
            continue
        answer = "faster" if gain.low > 1 else "slower" if gain.high < 1 else "undecided within the interval"
        sparse = decisions.sparse_loses_at(batch)
        asked = len({found.layer for found in decisions.layers if found.change == "2:4"})
        lines.append(
            f"{decisions.target}, batch {batch}: {whole.form} is predicted {gain.point:.2f}x ({gain.low:.2f} to "
            f"{gain.high:.2f}) as fast as {whole.against}: {answer}; "
            f"2:4 does not pay in {len(sparse)} of {asked} layers"
        )
    return lines
