"""What is wrong or worth knowing in an engine, in words, from its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gpusq.engines.receipts.model import Finding, PrunedLayer, ReceiptLayer, Shares, Totals
from gpusq.engines.receipts.shares import FULL_FLOAT
from gpusq.workload import Layer

LISTED = 20
REFORMAT_TIME, REFORMAT_COUNT = 0.15, 0.5
"""Share of the time, and number for each GEMM, from which casts, quantizers and reformats are "heavy"."""
FALLBACK = 0.5
"""Share of the weighted work in full float from which an engine is the wrong engine, not one with a slow layer."""


def findings_of(
    rows: Sequence[ReceiptLayer],
    pruned: Sequence[PrunedLayer],
    shares: Shares,
    totals: Totals,
    known: Mapping[str, Layer],
    float_layers: frozenset[str],
    names_only: bool,
) -> tuple[Finding, ...]:
    """All findings, the worst first. known: the model's layers; float_layers: float32 in the graph itself."""
    found = [
        _details(rows, known, names_only),
        _full_float(rows, shares, float_layers),
        _int8(rows, known),
        _sparse_lost(pruned),
        _sparse_unknown(pruned),
        _attention(rows, totals, known),
        _reformats(rows, totals),
    ]
    order = {"fail": 0, "warn": 1, "note": 2}
    return tuple(sorted((finding for finding in found if finding), key=lambda finding: order[finding.severity]))


def _details(rows: Sequence[ReceiptLayer], known: Mapping[str, Layer], names_only: bool) -> Finding | None:
    """Layers of the model of which the engine shows nothing: of these nothing is proven, neither good nor bad."""
    shown = {name for row in rows if row.precision != "unknown" for name in row.sources}
    hidden = [name for name in known if name not in shown]
    if not hidden and not names_only:
        return None
    return Finding(
        kind="details missing",
        severity="warn",
        text=f"The engine shows no precision for {len(hidden)} of {len(known)} layers with weights.",
        do="build it with gpusq, which asks for detailed profiling verbosity, and look at the build's warnings",
        layers=tuple(hidden[:LISTED]),
    )


def _full_float(rows: Sequence[ReceiptLayer], shares: Shares, float_layers: frozenset[str]) -> Finding | None:
    """Weighted layers in FP32 or TF32 that the FP16 graph does not ask for."""
    fallen = [
        row for row in rows if row.sources and row.precision in FULL_FLOAT and not set(row.sources) <= float_layers
    ]
    if not fallen:
        return None
    share = shares.full_float
    return Finding(
        kind="fp32 fallback",
        severity="fail" if share >= FALLBACK else "warn",
        text=f"{len(fallen)} weighted layers run in full float, {share:.0%} of the {shares.basis}.",
        do="build from the bundle's FP16 graph with a strongly typed network; look for warnings in the build log",
        layers=_sources(fallen),
    )


def _int8(rows: Sequence[ReceiptLayer], known: Mapping[str, Layer]) -> Finding | None:
    """Quantized layers of the model that run in another precision."""
    asked = [name for name, layer in known.items() if layer.int8]
    others = {name for row in rows if row.precision not in ("int8", "unknown") for name in row.sources}
    missing = [name for name in asked if name in others]
    if not missing:
        return None
    return Finding(
        kind="int8 not fused",
        severity="fail" if len(missing) == len(asked) else "warn",
        text=f"{len(missing)} of {len(asked)} quantized layers do not run in INT8: their Q/DQ was not fused.",
        do="put the quantizers directly at the input and the weight of the layer; see the policies of `gpusq qat`",
        layers=tuple(missing[:LISTED]),
    )


def _sparse_lost(pruned: Sequence[PrunedLayer]) -> Finding | None:
    lost = [layer for layer in pruned if layer.state in ("lost on time", "not eligible")]
    if not lost:
        return None
    on_time = sum(layer.state == "lost on time" for layer in lost)
    epilogue = any("INT8 out" in layer.reason for layer in lost)
    return Finding(
        kind="sparse lost",
        severity="warn",
        text=f"{len(lost)} of {len(pruned)} pruned layers run dense: {on_time} lost on time, "
        f"{len(lost) - on_time} were not eligible.",
        do="quantize the outputs too: the sparse INT8 kernels of 8.x that are known write INT8"
        if epilogue
        else "expected for small layers (fewer than about 256 columns); else ship them dense",
        layers=tuple(layer.name for layer in lost[:LISTED]),
    )


def _sparse_unknown(pruned: Sequence[PrunedLayer]) -> Finding | None:
    hidden = [layer for layer in pruned if layer.state in ("unknown", "eligible")]
    if not hidden:
        return None
    return Finding(
        kind="sparse not shown",
        severity="note",
        text=f"Of {len(hidden)} of {len(pruned)} pruned layers it is not shown whether they run sparse: "
        f"{hidden[0].reason}.",
        layers=tuple(layer.name for layer in hidden[:LISTED]),
    )


def _attention(rows: Sequence[ReceiptLayer], totals: Totals, known: Mapping[str, Layer]) -> Finding | None:
    """Products of two activations that run as GEMMs of their own where a fused attention was possible."""
    products = [row for row in rows if row.role == "gemm" and not row.sources and _has_product(row, known)]
    if not products:
        return None
    return Finding(
        kind="attention not fused",
        severity="warn" if totals.fused_attentions == 0 else "note",
        text=f"{len(products)} attention products run as kernels of their own; "
        f"{totals.fused_attentions} fused attentions.",
        do="quantizers at the outputs of q, k and v prevent the fusion",
        layers=tuple(row.name for row in products[:LISTED]),
    )


def _has_product(row: ReceiptLayer, known: Mapping[str, Layer]) -> bool:
    return any("MatMul" in node.rpartition("/")[2] and node.rpartition("/")[0] not in known for node in row.nodes)


def _reformats(rows: Sequence[ReceiptLayer], totals: Totals) -> Finding | None:
    moving = [row for row in rows if row.role in ("cast", "quantize", "reformat")]
    if totals.us and totals.reformat_us is not None:
        heavy, said = (
            totals.reformat_us > REFORMAT_TIME * totals.us,
            f"{totals.reformat_us / totals.us:.0%} of the time",
        )
    else:
        heavy, said = len(moving) > REFORMAT_COUNT * max(totals.gemms, 1) + 2, f"{totals.gemms} weighted layers"
    if not heavy or not moving:
        return None
    return Finding(
        kind="reformat heavy",
        severity="warn",
        text=f"{len(moving)} layers only move or convert data ({totals.reformats} reformats, {totals.casts} casts, "
        f"{totals.quantizers} quantizers): {said}.",
        do="quantize neighbouring layers with one scale, and keep the types of neighbouring layers equal",
        layers=tuple(row.name for row in moving[:LISTED]),
    )


def _sources(rows: Sequence[ReceiptLayer]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for row in rows for name in row.sources))[:LISTED]
