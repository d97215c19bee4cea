"""What an engine builder will refuse or get wrong, said before the device is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpusq.errors import LintError
from gpusq.graph.operators import TENSORRT_OPERATORS
from gpusq.graph.precision import type_problems
from gpusq.graph.weights import GEMM_OPS, stored_weights
from gpusq.workload import Layer

if TYPE_CHECKING:
    import onnx_ir as ir

QDQ = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Finding:
    """severity: "refuse" where the parser or builder fails, "warn" where it is slow or known to be wrong."""

    severity: Literal["refuse", "warn"]
    rule: str
    node: str
    message: str

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def lint_tensorrt(model: ir.Model, layers: Iterable[Layer] = ()) -> list[Finding]:
    """All findings, refusals first, then in graph order. layers: those marked int8 must have INT8 weights here."""
    findings: list[Finding] = []
    for node in model.graph:
        findings += [finding for rule in _NODE_RULES for finding in rule(node)]
    findings += [Finding("refuse", "mixed types", problem.split(":")[0], problem) for problem in type_problems(model)]
    findings += _float_weights(model, layers)
    return sorted(findings, key=lambda finding: finding.severity)


def check_lint(findings: Iterable[Finding]) -> None:
    """Raises LintError that lists the refusals; warnings pass."""
    refused = [f"{f.node}: {f.message}" for f in findings if f.severity == "refuse"]
    if refused:
        more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
        raise LintError(
            "TensorRT must accept every node of the exported model",
            got="; ".join(refused[:5]) + more,
            do="replace these operations in the model's forward, or keep the layers in float",
        )


def _unknown_operator(node: ir.Node) -> Iterator[Finding]:
    if node.domain not in ("", "ai.onnx"):
        yield Finding(
            "refuse", "unknown domain", node.name or "", f"operator {node.domain}::{node.op_type} needs a plugin"
        )
    elif node.op_type not in TENSORRT_OPERATORS:
        yield Finding("refuse", "unknown operator", node.name or "", f"{node.op_type} is not supported by the parser")


def _operators_known_to_fail(node: ir.Node) -> Iterator[Finding]:
    name = node.name or ""
    if node.op_type == "NonMaxSuppression":
        yield Finding("refuse", "no kernel", name, "NonMaxSuppression parses, but no kernel implements it: use top-k")
    elif node.op_type == "Attention":
        yield Finding(
            "refuse", "no kernel", name, "the Attention operator has no kernel: export matmul, softmax, matmul"
        )
    elif node.op_type == "GridSample":
        issues = "NVIDIA/TensorRT#4813, #4646, pytorch/TensorRT#4074, #3674"
        advice = "export with the sampler gather, or check parity on the device"
        yield Finding("warn", "known wrong", name, f"GridSample gives wrong results from 10.14 on ({issues}): {advice}")


def _attention_clutter(node: ir.Node) -> Iterator[Finding]:
    if node.op_type == "IsNaN":
        yield Finding("warn", "attention clutter", node.name or "", "IsNaN guards break the fused attention kernel")
    elif node.op_type == "Where":
        sources = [value.producer() for value in node.inputs if value is not None]
        if any(source is not None and source.op_type in ("IsNaN", "Softmax") for source in sources):
            yield Finding("warn", "attention clutter", node.name or "", "Where on a softmax breaks the fused attention")


def _quantizer(node: ir.Node) -> Iterator[Finding]:
    if node.op_type not in QDQ:
        return
    name = node.name or ""
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    quantized = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    dtypes = {value.dtype.name for value in (zero, quantized) if value is not None and value.dtype is not None}
    if node.op_type == "QuantizeLinear" and zero is None and "output_dtype" not in node.attributes:
        dtypes = {"UINT8"}  # the operator's default
    for dtype in sorted(dtypes - {"INT8", "INT4", "FLOAT8E4M3FN"}):
        yield Finding("refuse", "quantized type", name, f"{dtype} Q/DQ is not supported: INT8 is expected")
    if zero is not None and (zero.const_value is None or np.any(zero.const_value.numpy())):
        yield Finding("refuse", "zero point", name, "the zero point must be constant and 0 (symmetric quantization)")


def _shared_pair(node: ir.Node) -> Iterator[Finding]:
    consumers = len(node.outputs[0].uses()) if node.op_type in QDQ else 1
    if consumers > 1:
        yield Finding(
            "warn", "shared Q/DQ", node.name or "", f"{consumers} consumers share one {node.op_type}: split it"
        )


def _float64(node: ir.Node) -> Iterator[Finding]:
    values = [*node.inputs, *node.outputs]
    if any(value is not None and value.dtype is not None and value.dtype.name == "DOUBLE" for value in values):
        yield Finding("refuse", "float64", node.name or "", f"{node.op_type} computes in float64")


_NODE_RULES: tuple[Callable[[ir.Node], Iterator[Finding]], ...] = (
    _unknown_operator,
    _operators_known_to_fail,
    _attention_clutter,
    _quantizer,
    _shared_pair,
    _float64,
)


def _float_weights(model: ir.Model, layers: Iterable[Layer]) -> list[Finding]:
    """Layers marked int8 whose weight or input is float in the file."""
    int8 = {weight.layer for weight in stored_weights(model) if weight.int8}
    quantized_input = {(node.name or "").rpartition("/")[0] for node in model.graph if _has_dequantized_inputs(node)}
    return [
        Finding(
            "refuse", "not INT8", layer.name, "the layer is marked INT8 but its weight or input is float in the file"
        )
        for layer in layers
        if layer.int8 and not (layer.name in int8 and layer.name in quantized_input)
    ]


def _has_dequantized_inputs(node: ir.Node) -> bool:
    producers = [value.producer() for value in node.inputs[:2] if value is not None]
    return node.op_type in GEMM_OPS and all(p is not None and p.op_type == "DequantizeLinear" for p in producers)
