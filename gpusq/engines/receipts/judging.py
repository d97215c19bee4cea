"""Is the engine what was asked for? Lines for people, or an error that says which promise it breaks."""

from __future__ import annotations

from gpusq.engines.receipts.model import LayerReceipt, Shares, State
from gpusq.errors import EngineError, PrecisionError, SparseShareError

BASIS = {"time": "GEMM time", "macs": "GEMM MACs (not timed)", "weights": "weights (neither timed nor counted)"}
STATES: tuple[State, ...] = ("chosen", "lost on time", "eligible", "not eligible", "unknown")


def judge(
    receipt: LayerReceipt, require_sparse: float | None = None, *, require_int8: float | None = None
) -> tuple[str, ...]:
    """The verdict in lines, findings first.

    require_sparse, require_int8: least share, 0 to 1, of GEMM time (of MACs or weights where nothing was timed). Raises
    EngineError for the receipt of a failed build, PrecisionError where the engine runs in another precision than its
    graph asks for or too little in INT8, SparseShareError where too little is sparse or where it is not shown.
    """
    if receipt.failure is not None or receipt.shares is None or receipt.totals is None:
        raise _not_built(receipt)
    fail = next((finding for finding in receipt.findings if finding.severity == "fail"), None)
    if fail is not None:
        raise PrecisionError("the engine must run as its graph says", got=fail.text, do=fail.do)
    _check_int8(receipt.shares, require_int8)
    _check_sparse(receipt, receipt.shares, require_sparse)
    return (*(f"{finding.kind}: {finding.text}" for finding in receipt.findings), *_facts(receipt, receipt.shares))


def twin_lines(receipt: LayerReceipt, twin: LayerReceipt) -> tuple[str, ...]:
    """Each pruned layer's time beside the dense twin's, the worst ratio first; layers that one side lacks are left out.

    A fused layer is compared where the twin fuses the same layers. Receipts that were not timed give no lines.
    """
    dense = {row.sources: row for row in twin.layers if row.sources and row.us}
    pruned = {layer.name for layer in receipt.pruned}
    pairs = [
        (row.us / other.us, row, other)
        for row in receipt.layers
        if row.us and pruned & set(row.sources) and (other := dense.get(row.sources)) is not None and other.us
    ]
    return tuple(
        f"{', '.join(row.sources)}: {row.us:.1f} us ({row.precision}, {_word(row.sparse)}), twin {other.us:.1f} us "
        f"({other.precision}), {1 / ratio:.2f}x as fast"
        for ratio, row, other in sorted(pairs, key=lambda pair: pair[0], reverse=True)
    )


def _not_built(receipt: LayerReceipt) -> EngineError:
    failure = receipt.failure
    if failure is None:
        return EngineError("a receipt must describe an engine", got="none", do="build it again")
    return EngineError(failure.what, got=failure.got, do=failure.do)


def _check_int8(shares: Shares, require: float | None) -> None:
    if require is None or shares.int8 >= require:
        return
    raise PrecisionError(
        f"at least {require:.0%} of the {BASIS[shares.basis]} must be INT8",
        got=f"{shares.int8:.0%}{_hidden(shares.precision_hidden)}",
        do="look at the layers that are not INT8 in the receipt",
    )


def _check_sparse(receipt: LayerReceipt, shares: Shares, require: float | None) -> None:
    if require is None or shares.sparse >= require:
        return
    could = shares.sparse + shares.sparse_hidden >= require
    raise SparseShareError(
        f"at least {require:.0%} of the {BASIS[shares.basis]} must run 2:4 kernels",
        got=f"{shares.sparse:.0%}{_hidden(shares.sparse_hidden)} ({_states(receipt) or 'no pruned layers'})",
        do="build on the device with TensorRT, which names its kernels" if could else _first_reason(receipt),
    )


def _first_reason(receipt: LayerReceipt) -> str:
    lost = next((layer for layer in receipt.pruned if layer.state in ("lost on time", "not eligible")), None)
    return "see the reasons in the receipt" + (f", first {lost.name}: {lost.reason}" if lost else "")


def _facts(receipt: LayerReceipt, shares: Shares) -> list[str]:
    lines = [
        f"{receipt.library} {receipt.version}: {shares.sparse:.0%} sparse{_hidden(shares.sparse_hidden)}, "
        f"{shares.int8:.0%} INT8{_hidden(shares.precision_hidden)} of the {BASIS[shares.basis]}"
    ]
    if receipt.pruned:
        lines.append(f"{len(receipt.pruned)} pruned layers: {_states(receipt)}")
    if totals := receipt.totals:
        lines.append(
            f"{totals.layers} layers: {totals.gemms} with weights, {totals.fused_attentions} fused attentions, "
            f"{totals.reformats} reformats, {totals.casts} casts, {totals.quantizers} quantizers"
        )
    return lines


def _states(receipt: LayerReceipt) -> str:
    counts = {state: sum(layer.state == state for layer in receipt.pruned) for state in STATES}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)


def _hidden(share: float) -> str:
    return f" and {share:.0%} not shown" if share > 0 else ""


def _word(sparse: bool | None) -> str:
    return {True: "sparse", False: "dense", None: "kernel not shown"}[sparse]
