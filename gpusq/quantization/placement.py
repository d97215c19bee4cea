"""Where quantizers go: named policies, each a pure function of the layers and the attention points."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from gpusq.errors import UsageError
from gpusq.workload import Layer

Role = Literal["weight", "input", "output", "q", "k", "v", "p"]
Policy = Literal["inputs", "sparse-epilogue", "attention", "sparse-epilogue+attention"]
POLICIES: tuple[str, ...] = get_args(Policy)
ATTENTION_ROLES: tuple[Role, ...] = ("q", "k", "v", "p")
HEAD_REASON = "final head: kept in floating point by default"
_QKV = re.compile(r"^(to_?|in_)?(q|k|v|qk|kv|qkv|query|key|value|query_key_value)(_(proj|lin|linear))?$")


@dataclass(frozen=True)
class QuantizerSpec:
    """One quantizer. layer: module path of a GEMM layer, or of the owner of attention points (roles q, k, v, p).

    axis: channel axis of a weight, None for one scale per tensor. p is the softmax output. shares: the layer whose
    input quantizer serves this one too, since both read the same tensor (q, k and v): engine builders merge such
    layers into one GEMM only while their scales are equal.
    """

    layer: str
    role: Role
    axis: int | None = None
    bits: int = 8
    shares: str | None = None


def place(
    policy: str,
    layers: Sequence[Layer],
    attention: Sequence[str] = (),
    skip: Collection[str] = (),
    bits: int = 8,
    same_input: Mapping[str, str] | None = None,
) -> tuple[QuantizerSpec, ...]:
    """The quantizers of a policy.

    inputs (part of all others): Q/DQ on the input and weight of every layer not in `skip`.
    sparse-epilogue: also on the output of each sparse layer, since TensorRT is reported to choose a sparse INT8 kernel
    only between INT8 tensors; not on outputs that feed q, k or v, where a pair breaks TensorRT's fused attention.
    attention: also on the operands of both attention products (this too gives up the fused FP16 attention).
    attention (the argument): names of modules with points. Residual additions, LayerNorm inputs and, without
    `attention`, softmax outputs are never quantized. Raises UsageError for an unknown policy, or for attention
    without points. same_input: layer -> the first layer that reads the same tensor (`shared_inputs`).
    """
    leaders = {k: v for k, v in (same_input or {}).items() if v not in skip}
    if policy not in POLICIES:
        raise UsageError(f"a policy is one of {', '.join(POLICIES)}", got=repr(policy), do="choose one of them")
    if "attention" in policy and not attention:
        raise UsageError(
            "policy attention needs attention that gpusq can reach", got="none in this model", do="use policy inputs"
        )
    specs: list[QuantizerSpec] = []
    for layer in layers:
        if layer.name in skip:
            continue
        specs.append(QuantizerSpec(layer.name, "weight", 0, bits))
        specs.append(QuantizerSpec(layer.name, "input", None, bits, leaders.get(layer.name)))
        if "sparse-epilogue" in policy and layer.sparse and not feeds_attention(layer.name):
            specs.append(QuantizerSpec(layer.name, "output", None, bits))
    if "attention" in policy:
        specs += [QuantizerSpec(name, role, None, bits) for name in attention for role in ATTENTION_ROLES]
    return tuple(specs)


def feeds_attention(name: str) -> bool:
    """Whether a layer's output is an operand of an attention product, told by the last part of its name."""
    return bool(_QKV.match(name.rpartition(".")[2].lower()))
