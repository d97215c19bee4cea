"""What a model computes, without the model: operators, layer states, coverage.

Written once by tracing the dense model (`models.trace`), carried by every artifact as
`workload.json` and `layers.json`, read by the predictor and the reports. No torch here.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

OpKind = Literal["gemm", "bmm", "memory"]


@dataclass(frozen=True)
class Op:
    """One operator of a forward pass over ONE image; all counts are per image.

    name: path of the module that ran it ("vit.layers.0.mlp.fc1"), with "/op" for weightless ones.
    kind: "gemm" has weights (Linear, Conv2d as an implicit GEMM); "bmm" multiplies two activations
          (QK^T, attention x V); "memory" only moves data (LayerNorm, softmax, GELU, add).
    m, n, k: the product is [m, k] x [k, n], `count` times (groups, heads, windows). Zero for "memory".
    read, write: activation elements read and written. Weights are not counted here.
    """

    name: str
    kind: OpKind
    m: int = 0
    n: int = 0
    k: int = 0
    count: int = 1
    read: int = 0
    write: int = 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates per image."""
        return self.count * self.m * self.n * self.k


@dataclass(frozen=True)
class Layer:
    """One layer with weights and the form it has in this artifact.

    out, k: the weight as a GEMM matrix [out, k]; groups: of a convolution.
    sparse / int8: whether it is 2:4 / INT8 in this artifact; why_*: the reason where it is not.
    """

    name: str
    kind: Literal["linear", "conv"]
    out: int
    k: int
    groups: int = 1
    sparse: bool = False
    int8: bool = False
    why_dense: str = "not pruned"
    why_float: str = "not quantized"

    @property
    def weights(self) -> int:
        """Number of weights (without bias)."""
        return self.out * self.k

    def pruned(self) -> Layer:
        """The same layer, 2:4."""
        return replace(self, sparse=True, why_dense="")

    def quantized(self) -> Layer:
        """The same layer, INT8 in weights and input."""
        return replace(self, int8=True, why_float="")


@dataclass(frozen=True)
class Workload:
    """A forward pass over one image of shape `input_shape` = (channels, height, width)."""

    input_shape: tuple[int, int, int]
    ops: tuple[Op, ...]
    parameters: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates per image, attention included."""
        return sum(op.macs for op in self.ops)

    def to_json(self) -> dict[str, Any]:
        """Plain data, inverse of `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Workload:
        """Read what `to_json` wrote."""
        c, h, w = data["input_shape"]
        return cls((c, h, w), tuple(Op(**op) for op in data["ops"]), data["parameters"])


NO_LAYER = "a product with a weight outside nn.Linear and nn.Conv2d, which stays as it is"


@dataclass(frozen=True)
class Share:
    """One layer (or "attention products") with its share of the GEMM MACs, 0 to 1, and a reason."""

    name: str
    share: float
    reason: str


@dataclass(frozen=True)
class Coverage:
    """Share of GEMM MACs (attention included) that is sparse and INT8, 0 to 1, and what is not and why."""

    sparse: float
    int8: float
    dense: tuple[Share, ...]
    float_: tuple[Share, ...]


def coverage(workload: Workload, layers: tuple[Layer, ...]) -> Coverage:
    """Join operators with layer states by name; bmm operators count as one "attention products" entry.

    Products with weights that are no layer's count as one entry for each module. A zero-MAC workload has coverage 0.
    """
    states = {layer.name: layer for layer in layers}
    total = workload.macs or 1
    macs: dict[str, int] = {}
    outside: dict[str, int] = {}  # module -> products with weights that are no layer's, packed attention's for one
    attention = 0
    for op in workload.ops:
        if op.kind == "gemm":
            name, counts = (op.name, macs) if op.name in states else (op.name.partition("/")[0], outside)
            counts[name] = counts.get(name, 0) + op.macs
        elif op.kind == "bmm":
            attention += op.macs
    dense = [Share(n, m / total, states[n].why_dense) for n, m in macs.items() if not states[n].sparse]
    floats = [Share(n, m / total, states[n].why_float) for n, m in macs.items() if not states[n].int8]
    products = [Share(name, m / total, NO_LAYER) for name, m in outside.items()]
    if attention:
        products.append(Share("attention products", attention / total, "product of two activations: no weights"))
    sparse = sum(m for n, m in macs.items() if states[n].sparse) / total
    int8 = sum(m for n, m in macs.items() if states[n].int8) / total
    return Coverage(sparse, int8, (*dense, *products), (*floats, *products))


def transformer_part(workload: Workload, layers: tuple[Layer, ...], products: bool = True) -> Workload:
    """The workload without its convolutions: the transformer of a model whose backbone is convolutional.

    products: with the products of two activations, which have no weights to prune. `coverage` of the result is the
    share of the transformer alone. Patch embeddings belong to it: linear layers in a traced model, and in an ONNX file
    of other makers a convolution that tiles the image.
    """
    convolutions = {layer.name for layer in layers if layer.kind == "conv"} - _patch_embedding(workload)
    kinds = ("gemm", "bmm") if products else ("gemm",)
    kept = tuple(op for op in workload.ops if op.kind in kinds and op.name not in convolutions)
    return replace(workload, ops=kept)


def _patch_embedding(workload: Workload) -> set[str]:
    """The name of the first layer where it takes each value of the image exactly once, in pieces of several pixels."""
    first = next((op for op in workload.ops if op.kind == "gemm"), None)
    if first is None or first.k <= workload.input_shape[0] or first.m * first.k != math.prod(workload.input_shape):
        return set()
    return {first.name}
