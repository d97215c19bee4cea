"""Attention written out as matmul, softmax, matmul, with a named point on each operand for a quantizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpusq.errors import UnsupportedModelError
from gpusq.quantization.points import QuantPoint
from gpusq.workload import Workload

ATTENTION_NAME = "gpusq"
POINTS = "quant_points"

_callers: ContextVar[list[nn.Module] | None] = ContextVar("attention_callers", default=None)


class AttentionPoints(nn.Module):
    """The four operands of an attention's two products: q and k of q k^T, p (the softmax output) and v of p v."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.p = QuantPoint(), QuantPoint(), QuantPoint(), QuantPoint()


def explicit_attention(
    points: AttentionPoints | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    scale: float,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """softmax(q k^T * scale + bias) v through the points. query [B, H, L, D], key and value [B, H, S, D].

    bias: added to the scores, broadcast to [B, H, L, S]. dropout: 0 outside training.
    Returns (output [B, H, L, D], weights [B, H, L, S]).
    """
    if points is not None:
        query, key, value = points.q(query), points.k(key), points.v(value)
    scores = torch.matmul(query, key.transpose(-2, -1)) * scale
    if bias is not None:
        scores = scores + bias
    weights = F.softmax(scores, dim=-1)
    if dropout > 0.0:
        weights = F.dropout(weights, p=dropout, training=True)
    return torch.matmul(weights if points is None else points.p(weights), value), weights


def transformers_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """The attention function that transformers models call: query [B, H, L, D] in, output [B, L, H, D].

    Points are used where `attach_points` put them on `module`. Grouped-query keys and values are repeated.
    """
    found = _callers.get()
    if found is not None and module not in found:
        found.append(module)
    if attention_mask is None and (kwargs.get("is_causal") or getattr(module, "is_causal", False)):
        raise UnsupportedModelError(
            "attention of an image model looks at all places", got="causal attention", do="use an encoder model"
        )
    repeat = query.shape[1] // key.shape[1]
    if repeat > 1:
        key, value = key.repeat_interleave(repeat, dim=1), value.repeat_interleave(repeat, dim=1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    points = getattr(module, POINTS, None)
    output, weights = explicit_attention(points, query, key, value, attention_mask, scale, dropout)
    return output.transpose(1, 2).contiguous(), weights


def register_attention() -> None:
    """Make `transformers_attention` known to transformers under ATTENTION_NAME; doing it again changes nothing."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, transformers_attention)


@contextmanager
def attention_callers() -> Iterator[list[nn.Module]]:
    """Collect the modules that call `transformers_attention` inside the block, in order of their first call."""
    found: list[nn.Module] = []
    token = _callers.set(found)
    try:
        yield found
    finally:
        _callers.reset(token)


def attach_points(callers: list[nn.Module]) -> None:
    """Give each attention module its points, as the submodule `quant_points`."""
    for module in callers:
        if not hasattr(module, POINTS):
            module.add_module(POINTS, AttentionPoints())


def attention_modules(module: nn.Module) -> tuple[str, ...]:
    """Names of the attention modules whose products have points."""
    owners = (n.rpartition(".")[0] for n, m in module.named_modules() if isinstance(m, AttentionPoints))
    return tuple(owners)


def unreached_attention(module: nn.Module, workload: Workload) -> tuple[str, ...]:
    """Names of modules that multiply two activations without points: the `attention` placement cannot reach them."""
    reached = set(attention_modules(module))
    owners = dict.fromkeys(op.name.rpartition("/")[0] for op in workload.ops if op.kind == "bmm")
    return tuple(name for name in owners if name not in reached)


class UnpackedAttention(nn.Module):
    """nn.MultiheadAttention with its packed in-projection as three nn.Linear; the same function and call signature.

    q_proj, k_proj, v_proj, out_proj: nn.Linear. Not for bias_k, bias_v or add_zero_attn.
    """

    in_proj_bias = None  # with _qkv_same_embed_dim: keeps torch's encoder layers off their fused path
    _qkv_same_embed_dim = False

    def __init__(self, packed: nn.MultiheadAttention) -> None:
        super().__init__()
        if packed.bias_k is not None or packed.bias_v is not None or packed.add_zero_attn:
            raise UnsupportedModelError(
                "nn.MultiheadAttention is unpacked without bias_k, bias_v and add_zero_attn",
                got="one of them",
                do="build the model without them",
            )
        self.embed_dim, self.num_heads, self.head_dim = packed.embed_dim, packed.num_heads, packed.head_dim
        self.dropout, self.batch_first = packed.dropout, packed.batch_first
        self.q_proj, self.k_proj, self.v_proj = _projections(packed)
        self.out_proj = _linear(packed.out_proj.weight, packed.out_proj.bias)
        self.quant_points = AttentionPoints()
        self.train(packed.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As nn.MultiheadAttention.forward; `is_causal` is only a hint there and attn_mask carries the mask.

        A row that may look nowhere gives zeros before `out_proj` with need_weights=False, else NaN, as it does there.
        """
        if is_causal and attn_mask is None:
            raise UnsupportedModelError("causal attention gives its attn_mask", got="none", do="pass attn_mask")
        batched = query.dim() == 3
        query, key, value = (self._batch_first(x, batched) for x in (query, key, value))
        q, k, v = (self._heads(p(x)) for p, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value)))
        bias = self._bias(key_padding_mask, attn_mask, q)
        dropout = self.dropout if self.training else 0.0
        nowhere = None if need_weights or bias is None else _looks_nowhere(bias)
        bias = bias if bias is None or nowhere is None else bias.masked_fill(nowhere, 0.0)
        merged, weights = explicit_attention(self.quant_points, q, k, v, bias, self.head_dim**-0.5, dropout)
        merged = merged if nowhere is None else merged.masked_fill(nowhere, 0.0)
        output = self.out_proj(merged.transpose(1, 2).flatten(2))  # [B, H, L, D] -> [B, L, H * D]
        output = output.squeeze(0) if not batched else output if self.batch_first else output.transpose(0, 1)
        if not need_weights:
            return output, None
        weights = weights.mean(dim=1) if average_attn_weights else weights
        return output, weights if batched else weights.squeeze(0)

    def _batch_first(self, x: Tensor, batched: bool) -> Tensor:
        if not batched:
            return x.unsqueeze(0)
        return x if self.batch_first else x.transpose(0, 1)

    def _heads(self, x: Tensor) -> Tensor:
        split = x.view(x.shape[0], x.shape[1], self.num_heads, self.head_dim)
        return split.transpose(1, 2)  # [B, L, E] -> [B, H, L, D]

    def _bias(self, padding: Tensor | None, mask: Tensor | None, like: Tensor) -> Tensor | None:
        """Both masks as one additive bias that broadcasts to [B, H, L, S]."""
        bias = None if mask is None else _additive(mask, like)
        if bias is not None and bias.dim() == 3:  # [B * H, L, S]
            bias = bias.reshape(-1, self.num_heads, *bias.shape[1:])
        if padding is not None:
            padding = _additive(padding, like)
            padding = padding.reshape(-1, 1, 1, padding.shape[-1])
            bias = padding if bias is None else bias + padding
        return bias


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """A bool mask (True: do not look) as 0 and -inf; a float mask unchanged."""
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=like.dtype, device=mask.device).masked_fill(mask, float("-inf"))
    return mask.to(like.dtype)


def _looks_nowhere(bias: Tensor) -> Tensor:
    """The rows of a bias [..., L, S] that mask every place, bool [..., L, 1]."""
    return bias.amax(dim=-1, keepdim=True) == float("-inf")


def _projections(packed: nn.MultiheadAttention) -> list[nn.Linear]:
    weights: tuple[Tensor, ...] = (packed.q_proj_weight, packed.k_proj_weight, packed.v_proj_weight)
    if packed._qkv_same_embed_dim:
        weights = packed.in_proj_weight.chunk(3)
    biases = (None, None, None) if packed.in_proj_bias is None else packed.in_proj_bias.chunk(3)
    return [_linear(w, b) for w, b in zip(weights, biases, strict=True)]


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """An nn.Linear with a copy of this weight [out, in] and bias [out]."""
    linear = nn.Linear(
        weight.shape[1], weight.shape[0], bias=bias is not None, device=torch.device("meta"), dtype=weight.dtype
    )
    linear.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone())
    return linear
