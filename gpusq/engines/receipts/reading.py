"""From a built plan to its receipt: engine layers joined with the layers of the model by the names of ONNX nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gpusq.engines.receipts.findings import findings_of
from gpusq.engines.receipts.model import Failure, LayerReceipt, ReceiptLayer, Totals
from gpusq.engines.receipts.shares import shares_of
from gpusq.engines.receipts.states import pruned_layers, runs_sparse
from gpusq.engines.tensorrt.engine_layer import EngineLayer
from gpusq.engines.tensorrt.inspector import Inspected, layers_of
from gpusq.engines.tensorrt.log import LogFacts, parse_log
from gpusq.engines.tensorrt.plan import BuiltPlan, PlanOptions
from gpusq.engines.tensorrt.refusals import layer_of
from gpusq.errors import GpusqError
from gpusq.workload import Layer, Workload


@dataclass(frozen=True)
class OnnxFacts:
    """What is known of the graph besides the engine. macs: layer name -> multiply-accumulates per image.

    float_layers: layers that the graph itself keeps in float32, which are then no fallback.
    """

    macs: Mapping[str, int] = field(default_factory=dict)
    float_layers: frozenset[str] = frozenset()

    @classmethod
    def of(cls, workload: Workload) -> OnnxFacts:
        """From the workload that every artifact carries."""
        macs: dict[str, int] = {}
        for op in workload.ops:
            if op.kind == "gemm":
                macs[op.name] = macs.get(op.name, 0) + op.macs
        return cls(macs)


def receipt_of(
    built: BuiltPlan,
    layers: Sequence[Layer],
    facts: OnnxFacts | None = None,
    *,
    times_us: Mapping[str, float] | None = None,
) -> LayerReceipt:
    """The receipt of a build. layers: layers.json of the artifact. times_us: engine layer -> microseconds of a run.

    Raises EngineError where the inspector's report cannot be read.
    """
    facts, times_us = facts or OnnxFacts(), times_us or {}
    inspected, log = layers_of(built), parse_log(built.messages)
    known = {layer.name: layer for layer in layers}
    sparse = {layer.name for layer in layers if layer.sparse}
    rows = tuple(_row(layer, known, facts, times_us, sparse, log) for layer in inspected.layers)
    pruned = pruned_layers(layers, inspected.layers, rows, log, built)
    shares, totals = shares_of(rows, known, facts.macs, timed=bool(times_us)), _totals(rows, timed=bool(times_us))
    return LayerReceipt(
        **_of_the_build(built),
        log_eligible=log.eligible,
        log_chosen=log.chosen,
        timed=bool(times_us),
        layers=rows,
        pruned=pruned,
        shares=shares,
        totals=totals,
        findings=findings_of(rows, pruned, shares, totals, known, facts.float_layers, _names_only(inspected)),
    )


def _of_the_build(built: BuiltPlan) -> dict[str, Any]:
    """The fields that are taken over as they are."""
    same = ("library", "version", "compute_capabilities", "onnx_sha256", "plan_sha256", "seconds")
    digests = ("timing_cache_in_sha256", "timing_cache_sha256")
    fields = {name: getattr(built, name) for name in (*same, *digests)}
    return fields | {"sparse_allowed": built.sparse, "memory_mib": asdict(built.memory)}


def refused_receipt(
    library: str, version: str, onnx_sha256: str, options: PlanOptions, error: GpusqError
) -> LayerReceipt:
    """The receipt of a build that gave no engine."""
    return LayerReceipt(
        library=library,
        version=version,
        compute_capabilities=options.compute_capabilities,
        onnx_sha256=onnx_sha256,
        sparse_allowed=options.sparse,
        failure=Failure(error=type(error).__name__, what=error.what, got=error.got, do=error.do),
    )


def sources_of(layer: EngineLayer, known: Mapping[str, Layer]) -> tuple[str, ...]:
    """Layers of the model whose weights an engine layer multiplies with, in the order of its nodes."""
    if layer.role != "gemm":
        return ()
    return tuple(dict.fromkeys(name for node in layer.gemm_nodes if (name := layer_of(node)) in known))


def _row(
    layer: EngineLayer,
    known: Mapping[str, Layer],
    facts: OnnxFacts,
    times_us: Mapping[str, float],
    pruned: set[str],
    log: LogFacts,
) -> ReceiptLayer:
    sources = sources_of(layer, known)
    macs = [facts.macs[name] for name in sources if name in facts.macs]
    return ReceiptLayer(
        name=layer.name,
        kind=layer.kind,
        role=layer.role,
        sources=sources,
        nodes=layer.nodes,
        precision=layer.precision,
        sparse=runs_sparse(layer, sources, pruned, log) if sources else None,
        tactic=layer.tactic,
        input_types=tuple(t.datatype for t in layer.inputs),
        output_types=tuple(t.datatype for t in layer.outputs),
        us=times_us.get(layer.name),
        macs=sum(macs) if sources and len(macs) == len(sources) else None,
    )


def _totals(rows: Sequence[ReceiptLayer], *, timed: bool) -> Totals:
    def count(role: str) -> int:
        return sum(row.role == role for row in rows)

    def microseconds(*roles: str) -> float | None:
        return sum(row.us or 0.0 for row in rows if not roles or row.role in roles) if timed else None

    return Totals(
        layers=len(rows),
        gemms=sum(bool(row.sources) for row in rows),
        fused_attentions=count("attention"),
        casts=count("cast"),
        quantizers=count("quantize"),
        reformats=count("reformat"),
        us=microseconds(),
        gemm_us=sum(row.us or 0.0 for row in rows if row.sources) if timed else None,
        reformat_us=microseconds("cast", "quantize", "reformat"),
    )


def _names_only(inspected: Inspected) -> bool:
    return inspected.names_only or not inspected.layers
