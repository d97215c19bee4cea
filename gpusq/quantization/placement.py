"""Which tensors are quantized: named policies that turn a list of layers into quantizer specifications."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from gpusq.errors import UsageError
from gpusq.workload import Layer

Role = Literal["weight", "input", "output", "q", "k", "v", "p"]
POLICIES = ("inputs", "sparse-epilogue", "attention")

_HEADS = re.compile(r"(^|[._])(classifier|head|heads|predictor|logits|score)([._]|$)")
_STACKED = re.compile(r"^(?P<stem>.*\.)(?P<index>\d+)$")
_QKV = re.compile(r"^(to_?|w|lin_?|in_)?(q|k|v|qk|kv|qkv|query|key|value|query_key_value)(_(proj|lin|linear|bias_proj))?$")


@dataclass(frozen=True)
class QuantizerSpec:
    """One quantizer: where it sits and its form.

    layer: module path of a Linear, Conv2d or QuantPoint. role: what of it is quantized; q, k, v, p name the operands
    of attention products (p: softmax output). axis: the weight's axis with one scale per index, None for one scale.
    """

    layer: str
    role: Role
    axis: int | None = None
    bits: int = 8

    @property
    def name(self) -> str:
        """Path of the quantizer inside the model."""
        kind = f"{self.role}_quantizer" if self.role in ("weight", "input", "output") else "quantizer"
        return f"{self.layer}.{kind}"


def place(
    policy: str | Collection[str],
    layers: tuple[Layer, ...],
    quant_points: Iterable[str] = (),
    *,
    keep_float: Collection[str] | None = None,
    bits: int = 8,
) -> tuple[QuantizerSpec, ...]:
    """Specifications for a policy: one of POLICIES, several joined by "+", or a set of them.

    `inputs` (always part of the others): weight and input of every layer that is not kept in float.
    `sparse-epilogue`: also the output of every sparse layer, since TensorRT is reported to choose a sparse INT8
    kernel only between INT8 tensors. Not of layers that feed q, k or v of attention (`feeds_attention`): an INT8
    output there breaks TensorRT's fused attention; they are included when `attention` is asked for as well.
    `attention`: also the operands of both attention products, at QuantPoints named q, k, v and p.

    keep_float: layers to leave alone; default `heads(layers)`. Residual additions, LayerNorm inputs and, without
    `attention`, softmax outputs are never quantized. Raises UsageError for an unknown policy or layer name, and for
    `attention` without quant points.
    """
    chosen, points = _parse(policy), tuple(quant_points)
    kept = heads(layers) if keep_float is None else frozenset(keep_float)
    unknown = sorted(kept - {layer.name for layer in layers})
    if unknown:
        raise UsageError("keep_float names layers that the model does not have", got=", ".join(unknown))
    if "attention" in chosen and not points:
        raise UsageError("placement `attention` needs a model with quantization points", do="use `inputs` instead")
    specs: list[QuantizerSpec] = []
    for layer in layers:
        if layer.name in kept:
            continue
        specs += [QuantizerSpec(layer.name, "weight", 0, bits), QuantizerSpec(layer.name, "input", None, bits)]
        fused = feeds_attention(layer.name) and "attention" not in chosen
        if "sparse-epilogue" in chosen and layer.sparse and not fused:
            specs.append(QuantizerSpec(layer.name, "output", None, bits))
    if "attention" in chosen:
        specs += [QuantizerSpec(point, _point_role(point), None, bits) for point in points]
    return tuple(specs)


def heads(layers: tuple[Layer, ...]) -> frozenset[str]:
    """Layers that give the final outputs and stay in float: the last layer of each module named like a head.

    Names such as classifier, head, bbox_predictor.layers.2 (the last of a stack only). Where no name tells, the
    last layer.
    """
    named = [layer.name for layer in layers if _HEADS.search(layer.name)]
    if not named:
        return frozenset(layer.name for layer in layers[-1:])
    last: dict[str, tuple[int, str]] = {}
    for name in named:
        match = _STACKED.match(name)
        stem, index = (match["stem"], int(match["index"])) if match else (name, 0)
        last[stem] = max(last.get(stem, (-1, "")), (index, name))
    return frozenset(name for _, name in last.values())


def feeds_attention(name: str) -> bool:
    """Whether a layer's name says that it makes q, k or v: its last component is q_proj, query, qkv, to_k, ..."""
    return bool(_QKV.match(name.rpartition(".")[2].lower()))


def mark(layers: tuple[Layer, ...], specs: Iterable[QuantizerSpec]) -> tuple[Layer, ...]:
    """The layers with their INT8 state: quantized where weight and input are; the reason elsewhere."""
    roles: dict[str, set[str]] = {}
    bits: dict[str, int] = {}
    for spec in specs:
        roles.setdefault(spec.layer, set()).add(spec.role)
        bits[spec.layer] = spec.bits
    return tuple(_marked(layer, roles.get(layer.name, set()), bits.get(layer.name, 8)) for layer in layers)


def _marked(layer: Layer, roles: set[str], bits: int) -> Layer:
    if not {"weight", "input"} <= roles:
        return layer
    return layer.quantized()


def _parse(policy: str | Collection[str]) -> frozenset[str]:
    names = policy.split("+") if isinstance(policy, str) else list(policy)
    chosen = frozenset(name.strip() for name in names)
    if not chosen or not chosen <= set(POLICIES):
        raise UsageError(
            "a placement is one of " + ", ".join(POLICIES) + ', or several joined by "+"',
            got=repr(policy),
            do="correct the placement",
        )
    return chosen


def _point_role(point: str) -> Role:
    last = point.rpartition(".")[2]
    if last == "q" or last == "k" or last == "v" or last == "p":
        return last
    raise UsageError("a quantization point is named q, k, v or p", got=point)
