"""Operators to kernels, as an engine builder fuses them.

- A q, k, v projection group that reads one input becomes one GEMM.
- Two products of activations with only weightless operators between them become one attention kernel: the scores
  never reach memory.
- An operator that follows a GEMM or an attention kernel and only changes elements joins its epilogue; what it reads
  beside that kernel's output (a residual) still moves.
- Normalisations, pooling and what moves whole images (OWN_KERNELS) stay kernels of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gpusq.workload import Op

KernelKind = Literal["gemm", "attention", "memory"]
PROJECTIONS = frozenset({"q", "k", "v", "query", "key", "value", "q_proj", "k_proj", "v_proj"})

OWN_KERNELS = ("norm", "pool", "mean", "roll", "pad", "cat", "upsample", "grid_sampler", "topk")


@dataclass
class Kernel:
    """One kernel: the operators whose time it is, and activation elements that it moves beyond its GEMM operands."""

    kind: KernelKind
    ops: list[Op]
    read: int = 0
    write: int = 0
    extra_read: int = 0
    path: tuple[str, str] = field(default=("", ""))

    @property
    def macs(self) -> int:
        """Multiply-accumulates per image."""
        return sum(op.macs for op in self.ops)


def fuse(ops: tuple[Op, ...], paths: dict[str, tuple[str, str]], *, fused: bool = True) -> list[Kernel]:
    """Kernels in order. paths: (dtype, sparsity) of each GEMM operator by name; others share the base path ("", "").

    fused: False joins only the projections: every other operator is a kernel of its own.
    """
    kernels: list[Kernel] = []
    for op in ops:
        last = kernels[-1] if kernels else None
        if op.kind == "gemm":
            path = paths[op.name]
            if last and _joins_projections(last, op, path):
                last.ops.append(op)
            else:
                kernels.append(Kernel("gemm", [op], op.read, op.write, path=path))
        elif op.kind == "bmm":
            if last and fused and _is_second_product(last, op):
                last.ops.append(op)
                last.read += max(op.read - last.write, 0)
                last.write = op.write
            else:
                kernels.append(Kernel("attention", [op], op.read, op.write))
        elif last and fused and not _is_own_kernel(op):
            last.extra_read += max(op.read - op.write, 0)
        else:
            kernels.append(Kernel("memory", [op], op.read, op.write))
    return kernels


def _joins_projections(last: Kernel, op: Op, path: tuple[str, str]) -> bool:
    first = last.ops[0]
    same_shape = (first.m, first.k, first.count, last.path, last.kind) == (op.m, op.k, op.count, path, "gemm")
    parent, _, name = op.name.rpartition(".")
    first_parent, _, first_name = first.name.rpartition(".")
    return same_shape and parent == first_parent and {name, first_name} <= PROJECTIONS and len(last.ops) < len("qkv")


def _is_second_product(last: Kernel, op: Op) -> bool:
    first = last.ops[0]
    return last.kind == "attention" and len(last.ops) == 1 and (first.n, first.count) == (op.k, op.count)


def _is_own_kernel(op: Op) -> bool:
    last = op.name.replace("/", ".").lower().rsplit(".", 1)[-1]
    return any(word in last for word in OWN_KERNELS)
