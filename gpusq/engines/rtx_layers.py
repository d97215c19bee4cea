"""The layer dump of a TensorRT-RTX build, parsed: which GEMMs are INT8, by the names of the ONNX nodes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

FUSED_ATTENTION = "gemm_mha"
_LINE = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<type>.*?), Inputs: (?P<inputs>.*?), Constants: (?P<constants>.*?), "
    r"Outputs: (?P<outputs>.*?), TacticName: (?P<tactic>.*?), StreamId: .*?, Metadata:(?P<metadata>.*)$"
)
_DATATYPE = re.compile(r"Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_GEMM_NODE = re.compile(r"(^|/)(MatMul|Gemm|Conv)(_\d+)?$")


@dataclass(frozen=True)
class PlanLayer:
    """One fused layer of a plan: sorted distinct datatypes ("Int8", "Half", "Float") and the ONNX nodes it covers."""

    name: str
    type: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]
    tactic: str

    @property
    def gemm_nodes(self) -> tuple[str, ...]:
        """The MatMul, Gemm and Conv nodes it covers."""
        return tuple(node for node in self.nodes if _GEMM_NODE.search(node))

    @property
    def fused_attention(self) -> bool:
        """Whether it is one kernel for QK^T, softmax and the product with V."""
        return FUSED_ATTENTION in self.name

    @property
    def int8_gemm(self) -> bool:
        """Whether it multiplies an INT8 activation with an INT8 weight."""
        return bool(self.gemm_nodes) and "Int8" in self.inputs and "Int8" in self.constants


@dataclass(frozen=True)
class RtxCheck:
    """What a real ahead-of-time build with TensorRT-RTX said for one compute capability ("8.0").

    ok: parsed and built. seconds: build time. plan_bytes: size of the plan, which is not kept. errors: where not ok.
    """

    capability: str
    ok: bool
    seconds: float
    plan_bytes: int
    layers: tuple[PlanLayer, ...] = ()
    errors: tuple[str, ...] = ()

    @property
    def int8_gemms(self) -> tuple[str, ...]:
        """ONNX nodes that run as INT8 GEMMs, sorted."""
        return tuple(sorted({node for layer in self.layers if layer.int8_gemm for node in layer.gemm_nodes}))

    @property
    def fused_attention(self) -> int:
        """Number of fused attention kernels."""
        return sum(layer.fused_attention for layer in self.layers)

    def not_int8(self, nodes: Iterable[str]) -> tuple[str, ...]:
        """Those of `nodes` (ONNX node names) that do not run as INT8 GEMMs."""
        found = set(self.int8_gemms)
        return tuple(node for node in nodes if node not in found)

    def without_times(self) -> RtxCheck:
        """The same check with seconds 0, equal for equal builds."""
        return replace(self, seconds=0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain data with the derived figures, read back by `from_json`."""
        data = asdict(self)
        return data | {"int8_gemms": list(self.int8_gemms), "fused_attention": self.fused_attention}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RtxCheck:
        """Read what `to_json` wrote."""
        tuples = ("inputs", "constants", "outputs", "nodes")
        layers = tuple(PlanLayer(**layer | {key: tuple(layer[key]) for key in tuples}) for layer in data["layers"])
        return cls(data["capability"], data["ok"], data["seconds"], data["plan_bytes"], layers, tuple(data["errors"]))


def parse_layers(dump: str) -> tuple[PlanLayer, ...]:
    """The layers of a "Layers:" log message in plan order; lines that are no layers are passed over."""
    matches = (_LINE.match(line.strip()) for line in dump.splitlines())
    return tuple(_layer(match) for match in matches if match)


def _layer(match: re.Match[str]) -> PlanLayer:
    def datatypes(part: str) -> tuple[str, ...]:
        return tuple(sorted(set(_DATATYPE.findall(match[part]))))

    nodes = tuple(dict.fromkeys(_NODE.findall(match["metadata"])))
    kinds = datatypes("inputs"), datatypes("constants"), datatypes("outputs")
    return PlanLayer(match["name"], match["type"], *kinds, nodes, match["tactic"])
