"""What a TensorRT-RTX check showed of the layers that were quantized, for manifests and reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from gpusq.graph.naming import layer_of
from gpusq.workload import Layer

if TYPE_CHECKING:
    from gpusq.engines.rtx_layers import RtxCheck

NAMED = 5


def rtx_summary(check: RtxCheck, layers: Sequence[Layer]) -> dict[str, Any]:
    """Counts of one check: quantized layers, those that became INT8 GEMMs, the others by name, fused attentions."""
    found = {layer_of(node) for node in check.int8_gemms}
    asked = [layer.name for layer in layers if layer.int8]
    return {
        "capability": check.capability,
        "quantized_layers": len(asked),
        "int8_layers": sum(name in found for name in asked),
        "not_int8": [name for name in asked if name not in found],
        "fused_attention": check.fused_attention,
        "plan_layers": len(check.layers),
    }


def rtx_line(facts: dict[str, Any]) -> str:
    """One sentence for people."""
    missing = facts["not_int8"]
    tail = f"; not INT8: {', '.join(missing[:NAMED])}{' ...' if len(missing) > NAMED else ''}" if missing else ""
    return (
        f"TensorRT-RTX {facts['capability']}: {facts['int8_layers']} of {facts['quantized_layers']} quantized layers "
        f"are INT8 GEMMs, {facts['fused_attention']} fused attentions{tail}"
    )


def rtx_notes(facts: Iterable[dict[str, Any]], target: str) -> list[str]:
    """The sentences of all checks of one bundle, for a report."""
    return [f"{target}: {rtx_line(entry)} (parsed and built on this host; not run)" for entry in facts]
