"""How much of the weighted work is sparse and INT8: by time where it was measured, else by MACs, else by weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gpusq.engines.receipts.model import Basis, ReceiptLayer, Shares
from gpusq.workload import Layer

FULL_FLOAT = ("fp32", "tf32")


def shares_of(rows: Sequence[ReceiptLayer], known: Mapping[str, Layer], *, timed: bool) -> Shares:
    """Shares over the rows with sources; for an engine that shows no such rows everything is hidden."""
    gemms = [row for row in rows if row.sources]
    if not gemms:
        return Shares(basis="weights", sparse=0, sparse_hidden=1, int8=0, full_float=0, precision_hidden=1)
    basis, work = _basis(gemms, known, timed)
    total = sum(work(row) for row in gemms) or 1.0

    def share(test: Callable[[ReceiptLayer], bool]) -> float:
        return min(1.0, sum(work(row) for row in gemms if test(row)) / total)

    return Shares(
        basis=basis,
        sparse=share(lambda row: row.sparse is True),
        sparse_hidden=share(lambda row: row.sparse is None),
        int8=share(lambda row: row.precision == "int8"),
        full_float=share(lambda row: row.precision in FULL_FLOAT),
        precision_hidden=share(lambda row: row.precision == "unknown"),
    )


def _basis(
    gemms: Sequence[ReceiptLayer], known: Mapping[str, Layer], timed: bool
) -> tuple[Basis, Callable[[ReceiptLayer], float]]:
    if timed and gemms and all(row.us is not None for row in gemms):
        return "time", lambda row: row.us or 0.0
    if gemms and all(row.macs is not None for row in gemms):
        return "macs", lambda row: float(row.macs or 0)
    return "weights", lambda row: float(sum(known[name].weights for name in row.sources))
