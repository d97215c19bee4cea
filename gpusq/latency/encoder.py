"""The workload of a plain transformer encoder from its sizes, without building the model."""

from __future__ import annotations

from gpusq.errors import UsageError
from gpusq.workload import Layer, Op, Workload


def encoder_workload(
    layers: int, width: int, heads: int, mlp: int, tokens: int, patch_inputs: int = 0, patches: int = 0
) -> Workload:
    """Pre-norm encoder blocks over `tokens` tokens: separate q, k, v projections, explicit attention, GELU MLP.

    patch_inputs, patches: adds a patch embedding GEMM [patches, patch_inputs] x [patch_inputs, width].
    All sizes positive (layers may be 0), width divisible by heads; UsageError otherwise. The input shape is
    nominal: (width, 1, tokens).
    """
    if min(width, heads, mlp, tokens) < 1 or layers < 0 or width % heads:
        raise UsageError(
            "an encoder has positive sizes and a width divisible by its heads",
            got=f"layers={layers} width={width} heads={heads} mlp={mlp} tokens={tokens}",
            do="correct the sizes",
        )
    ops: list[Op] = []
    if patch_inputs:
        ops.append(_gemm("patch", patches, width, patch_inputs))
    for index in range(layers):
        ops += _block(f"blocks.{index}", width, heads, mlp, tokens)
    weights = sum(op.n * op.k for op in ops if op.kind == "gemm")
    return Workload((width, 1, tokens), tuple(ops), weights)


def encoder_layers(workload: Workload, *, sparse: bool = False, int8: bool = False) -> tuple[Layer, ...]:
    """One Layer for each GEMM of the workload, all in the same form."""
    layers = (Layer(op.name, "linear", op.n * op.count, op.k) for op in workload.ops if op.kind == "gemm")
    layers = (layer.pruned() if sparse else layer for layer in layers)
    return tuple(layer.quantized() if int8 else layer for layer in layers)


def _gemm(name: str, m: int, n: int, k: int) -> Op:
    return Op(name, "gemm", m, n, k, 1, m * k, m * n)


def _block(name: str, width: int, heads: int, mlp: int, tokens: int) -> list[Op]:
    size, scores, head = tokens * width, heads * tokens * tokens, width // heads
    return [
        Op(f"{name}.norm1", "memory", read=size, write=size),
        *(_gemm(f"{name}.attention.{part}", tokens, width, width) for part in ("q_proj", "k_proj", "v_proj")),
        Op(f"{name}.attention/matmul", "bmm", tokens, tokens, head, heads, 2 * size, scores),
        Op(f"{name}.attention/softmax", "memory", read=scores, write=scores),
        Op(f"{name}.attention/matmul_1", "bmm", tokens, head, tokens, heads, scores + size, size),
        _gemm(f"{name}.attention.out_proj", tokens, width, width),
        Op(f"{name}/add", "memory", read=2 * size, write=size),
        Op(f"{name}.norm2", "memory", read=size, write=size),
        _gemm(f"{name}.mlp.fc1", tokens, mlp, width),
        Op(f"{name}.mlp/gelu", "memory", read=tokens * mlp, write=tokens * mlp),
        _gemm(f"{name}.mlp.fc2", tokens, width, mlp),
        Op(f"{name}/add_1", "memory", read=2 * size, write=size),
    ]
