"""Size and work of an artifact, by formula, from what it computes and the form its layers have.

Nothing here is measured on a file or a device: the figures follow from `Workload` and `Layer` alone, so they can
be checked with pencil and paper. Dense FP32 is the reference of every ratio.
"""

from __future__ import annotations

from typing import Literal

from gpusq.errors import PatternError, UnsupportedModelError
from gpusq.reports.rows import Compute, Coverage, Size, TransformerPart, Uncovered
from gpusq.workload import Layer, Workload, transformer_part
from gpusq.workload import coverage as workload_coverage

BaseType = Literal["fp32", "fp16", "bf16"]
BASE_BITS: dict[str, int] = {"fp32": 32, "fp16": 16, "bf16": 16}

# The paper's FLOPs convention: what one FP32 FMA counts for at each width. It prints 31x for INT8 2:4 and 62x for
# INT4 (Yu et al. 2023, arXiv:2305.10727), which are 2 x 16 and 2 x 32 less a dense remainder; the peak ratios
# 624/19.5 and 1248/19.5 of an A100 are the same 32 and 64. 16 bits is not printed there: 8 continues the halving.
PAPER_FACTOR: dict[int, int] = {32: 1, 16: 8, 8: 16, 4: 32}
PAPER_SPARSE_FACTOR = 2


def bits_per_group(bits: int, sparse: bool) -> tuple[int, int]:
    """(weights in a group, stored bits of the group) at `bits` per value, index of 2:4 included.

    2:4 keeps two of four values with a 2-bit index each. At 4 bits the unit is a pair of neighbours (4:8), so
    the same index serves twice the weights. Saves 43.75 % at 16 bits, 37.5 % at 8 and at 4.
    """
    if not sparse:
        return 1, bits
    return (8, 4 * bits + 4) if bits == 4 else (4, 2 * bits + 4)


def stored_bits(layer: Layer, base: BaseType = "fp16", int_bits: int = 8) -> int:
    """Bits to store the weights of one layer, without scales and bias.

    base: type of what is not quantized. int_bits: width of quantized weights, 8 or 4.
    Raises PatternError where a sparse layer's k is not a multiple of its group.
    """
    group, bits = bits_per_group(int_bits if layer.int8 else BASE_BITS[base], layer.sparse)
    if layer.k % group:
        raise PatternError(
            f"{layer.name} is marked sparse, so its k must be a multiple of {group}",
            got=f"k={layer.k}",
            do="keep this layer dense",
        )
    return layer.weights // group * bits


def size_of(
    workload: Workload,
    layers: tuple[Layer, ...],
    base: BaseType = "fp16",
    int_bits: int = 8,
    file_bytes: int | None = None,
) -> Size:
    """Stored bytes of all parameters; what is in no layer (bias, embeddings, norms) counts at `base` width.

    Scales (one per output channel) and file headers are not counted. Raises PatternError, and
    UnsupportedModelError where the layers hold more weights than the model has parameters.
    """
    weights = sum(layer.weights for layer in layers)
    if weights > workload.parameters:
        raise UnsupportedModelError(
            f"the layers cannot hold more weights than the model has parameters ({workload.parameters})",
            got=str(weights),
            do="trace the model again; a weight that two layers share counts for each of them",
        )
    rest = (workload.parameters - weights) * BASE_BITS[base]
    bits = rest + sum(stored_bits(layer, base, int_bits) for layer in layers)
    dense_bits = workload.parameters * 32
    return Size(
        parameters=workload.parameters,
        bytes=-(-bits // 8),
        bytes_dense_fp32=dense_bits // 8,
        ratio=dense_bits / bits if bits else 1.0,
        file_bytes=file_bytes,
    )


def compute_of(workload: Workload, layers: tuple[Layer, ...], base: BaseType = "fp16", int_bits: int = 8) -> Compute:
    """Work per image in three conventions.

    macs: multiply-accumulates, attention products included, sparse layers at half.
    bops: those MACs x bits of weight x bits of activation (attention products at `base`).
    paper_flops_ratio: the paper's convention (see PAPER_FACTOR), over GEMMs with weights only: dense FP32 work
    divided by the sum of each share over its factor.
    """
    states = {layer.name: layer for layer in layers}
    macs = bops = weighted = 0
    cost = 0.0
    for op in workload.ops:
        layer = states.get(op.name) if op.kind == "gemm" else None
        sparse, bits = _form(layer, base, int_bits)
        done = op.macs // 2 if sparse else op.macs
        macs += done
        bops += done * bits * bits
        if op.kind == "gemm":
            weighted += op.macs
            cost += op.macs / (PAPER_FACTOR[bits] * (PAPER_SPARSE_FACTOR if sparse else 1))
    return Compute(
        macs_dense=workload.macs,
        macs=macs,
        bops_dense_fp32=workload.macs * 32 * 32,
        bops=bops,
        paper_flops_ratio=weighted / cost if cost else 1.0,
    )


def _form(layer: Layer | None, base: BaseType, int_bits: int) -> tuple[bool, int]:
    """(sparse, bits) in which an operator runs; without a layer it is dense at `base`."""
    if layer is None:
        return False, BASE_BITS[base]
    return layer.sparse, int_bits if layer.int8 else BASE_BITS[base]


def coverage_of(workload: Workload, layers: tuple[Layer, ...]) -> Coverage:
    """`workload.coverage` in the form that a row carries; shares of the GEMM MACs, 0 to 1.

    With the transformer part beside the whole, where the model has convolutions and attention.
    """
    found = workload_coverage(workload, layers)
    dense, floats = (
        tuple(Uncovered(name=s.name, share=min(s.share, 1.0), reason=s.reason) for s in shares)
        for shares in (found.dense, found.float_)
    )
    return Coverage(
        sparse=min(found.sparse, 1.0),
        int8=min(found.int8, 1.0),
        dense=dense,
        float=floats,
        transformer=_transformer_of(workload, layers),
    )


def _transformer_of(workload: Workload, layers: tuple[Layer, ...]) -> TransformerPart | None:
    """Coverage of the transformer part; None where it is the whole, or no attention makes it a transformer."""
    part = transformer_part(workload, layers)
    attends = any(op.kind == "bmm" and op.macs for op in part.ops)
    if not attends or part.macs == workload.macs:
        return None
    found = workload_coverage(part, layers)
    return TransformerPart(share=part.macs / workload.macs, sparse=min(found.sparse, 1.0), int8=min(found.int8, 1.0))
