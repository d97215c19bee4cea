"""Leave one group out, and its interval from the groups that remain: what no row of the group has touched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from gpusq.latency.interval import conformal_quantile, coverage
from gpusq.targets import EngineFit
from latency.data import Floats

Row = TypeVar("Row")
FitRows = Callable[[list[Row]], EngineFit]
Errors = Callable[[list[Row], EngineFit], Floats]


@dataclass(frozen=True)
class HeldOut:
    """ln(predicted / published) by group, each by a fit without that group; widths: its interval, from the others."""

    ln: dict[str, Floats]
    widths: dict[str, float]

    @property
    def every(self) -> Floats:
        """All rows' ln errors."""
        return np.concatenate(list(self.ln.values()))

    @property
    def coverage(self) -> float:
        """Share (0 to 1) of rows inside their interval."""
        widths = np.concatenate([np.full(len(ln), self.widths[group]) for group, ln in self.ln.items()])
        return coverage(self.every, widths)

    @property
    def quantile(self) -> float:
        """The half-width in ln to ship: from every held-out row."""
        return conformal_quantile(self.every)


def leave_groups_out(
    rows: Sequence[Row], group_of: Callable[[Row], str], fit: FitRows[Row], errors: Errors[Row]
) -> HeldOut:
    """Fits without each group and without each pair of groups; a pair's fit serves the intervals of both."""
    groups = sorted({group_of(row) for row in rows})
    inside = {group: [row for row in rows if group_of(row) == group] for group in groups}
    without: dict[frozenset[str], EngineFit] = {}
    for first in groups:
        for second in groups:
            out = frozenset({first, second})
            if out not in without:
                without[out] = fit([row for row in rows if group_of(row) not in out])
    ln = {group: errors(inside[group], without[frozenset({group})]) for group in groups}
    widths = {}
    for group in groups:
        others = [errors(inside[o], without[frozenset({group, o})]) for o in groups if o != group]
        widths[group] = conformal_quantile(np.concatenate(others))
    return HeldOut(ln, widths)
