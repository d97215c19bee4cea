"""How much of the weighted work is sparse and INT8: by time where it was measured, else by MACs, else by weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gpusq.engines.receipts.model import Basis, ReceiptLayer, Shares
from gpusq.workload import Layer

FULL_FLOAT = ("fp32", "tf32")
WITHOUT_WEIGHTS = ("attention", "cast", "quantize", "reformat", "none")
"""Roles of rows that cannot hold a layer with weights which no row names."""


def shares_of(
    rows: Sequence[ReceiptLayer], known: Mapping[str, Layer], macs: Mapping[str, int], *, timed: bool
) -> Shares:
    """Shares of the whole weighted work: layers that no row names count as hidden, so what is shown is a lower bound.

    macs: layer name -> multiply-accumulates per image; where any are given, a layer without does no work.
    """
    gemms = [row for row in rows if row.sources]
    if not gemms:
        return Shares(basis="weights", sparse=0, sparse_hidden=1, int8=0, full_float=0, precision_hidden=1)
    named = {name for row in gemms for name in row.sources}
    opaque = [layer for name, layer in known.items() if name not in named and (not macs or name in macs)]
    basis, work = _basis(gemms, known, timed)
    hidden, hidden_sparse = _opaque_work(basis, rows, opaque, macs)
    total = sum(work(row) for row in gemms) + hidden or 1.0

    def share(test: Callable[[ReceiptLayer], bool], more: float = 0.0) -> float:
        return min(1.0, (sum(work(row) for row in gemms if test(row)) + more) / total)

    return Shares(
        basis=basis,
        sparse=share(lambda row: row.sparse is True),
        sparse_hidden=share(lambda row: row.sparse is None, hidden_sparse),
        int8=share(lambda row: row.precision == "int8"),
        full_float=share(lambda row: row.precision in FULL_FLOAT),
        precision_hidden=share(lambda row: row.precision == "unknown", hidden),
    )


def _basis(
    gemms: Sequence[ReceiptLayer], known: Mapping[str, Layer], timed: bool
) -> tuple[Basis, Callable[[ReceiptLayer], float]]:
    if timed and gemms and all(row.us is not None for row in gemms):
        return "time", lambda row: row.us or 0.0
    if gemms and all(row.macs is not None for row in gemms):
        return "macs", lambda row: float(row.macs or 0)
    return "weights", lambda row: float(sum(known[name].weights for name in row.sources))


def _opaque_work(
    basis: Basis, rows: Sequence[ReceiptLayer], opaque: Sequence[Layer], macs: Mapping[str, int]
) -> tuple[float, float]:
    """(work of layers that no row names, of the pruned ones among them).

    Their time is not known: at most that of all rows which name no layer and may hold one, such as a whole block in
    one opaque node.
    """
    if not opaque:
        return 0.0, 0.0
    if basis == "time":
        most = sum(row.us or 0.0 for row in rows if not row.sources and row.role not in WITHOUT_WEIGHTS)
        return most, most if any(layer.sparse for layer in opaque) else 0.0

    def work(layer: Layer) -> float:
        return float(macs.get(layer.name, 0) if basis == "macs" else layer.weights)

    return sum(map(work, opaque)), sum(work(layer) for layer in opaque if layer.sparse)
