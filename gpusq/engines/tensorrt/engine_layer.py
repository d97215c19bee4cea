"""One layer of an engine: what it computes, in which precision, with which kernel, from which nodes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gpusq.engines.tensorrt.tactic import Precision, is_sparse_tactic, precision_of_operands, precision_of_tactic

Role = Literal["gemm", "attention", "cast", "quantize", "reformat", "other", "none"]

_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_GEMM_NODE = re.compile(r"(^|/)(MatMul|Gemm|Conv)(_\d+)?$")
_WORDS = re.compile(r"__myl_([A-Z][A-Za-z]*?)(?:_myl\d|_0x|$)")
_WORD = re.compile(r"[A-Z][a-z0-9]*")
_TYPE_NAME = re.compile(r"\b(Int8|FP8|Half|BFloat16|BF16|FP16|FP32|Float|Int32|Int64|Bool|UInt8|Int4|FP4)\b")
_NAMES = {"FP16": "Half", "FP32": "Float", "BF16": "BFloat16"}
_GEMM_TACTIC = re.compile(r"xmma_(?!pooling)|gemm|implicit_", re.IGNORECASE)
_GEMM_TYPES = ("gemm", "convolution", "matrixmultiply", "fullyconnected", "runtime_fusion")
_CASTS, _MOVES = {"Cast"}, {"Move", "Tran", "Resh", "Copy", "Cast", "Slic", "Conc", "Repl"}
_QUANTIZES = {"Mul", "Div", "Min", "Max", "Roun", "Cast", "Clip", "Quan", "Dequ"}
_NOTHING = ("signal", "wait", "shape_call", "noop", "constant", "shape_host_to_device")


@dataclass(frozen=True)
class Tensor:
    """An input, output or constant. datatype: "Int8", "Half", "Float", ...; "" where dynamic shapes hide it."""

    name: str
    datatype: str
    format: str
    dimensions: tuple[int, ...] = ()


@dataclass(frozen=True)
class EngineLayer:
    """A fused layer. kind: the library's word ("gemm", "kgen", "CaskConvolution"); nodes: the ONNX nodes it covers.

    tactic: kernel name, "" where the library shows none. sparse_weights: its HasSparseWeights, None without the field.
    weights_type: of a convolution's weights.
    """

    name: str
    kind: str
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    constants: tuple[Tensor, ...] = ()
    nodes: tuple[str, ...] = ()
    tactic: str = ""
    sparse_weights: bool | None = None
    weights_type: str = ""

    @property
    def gemm_nodes(self) -> tuple[str, ...]:
        """The MatMul, Gemm and Conv nodes it covers."""
        return tuple(node for node in self.nodes if _GEMM_NODE.search(node))

    @property
    def role(self) -> Role:
        """What it does, as far as its kind and name tell."""
        kind = self.kind.lower()
        if "gemm_mha" in self.name or "fmha" in self.tactic:  # "mha" alone may be part of a node's name
            return "attention"
        if any(word in kind for word in _GEMM_TYPES) or _GEMM_TACTIC.search(self.tactic) or "Fc" in self.words:
            return "gemm"
        if kind in _NOTHING:
            return "none"
        if kind == "reformat" or self.name.startswith("Reformatting CopyNode"):
            return "reformat"
        return _role_of_words(self.words)

    @property
    def words(self) -> tuple[str, ...]:
        """The operations in the name of a generated kernel: "__myl_CastMul_..." -> ("Cast", "Mul")."""
        match = _WORDS.search(self.name)
        return tuple(_WORD.findall(match[1])) if match else ()

    @property
    def sparse_tactic(self) -> bool | None:
        """Whether its kernel is a 2:4 one, by name; None where the name is not shown."""
        return is_sparse_tactic(self.tactic)

    @property
    def precision(self) -> Precision:
        """What it computes in: by the kernel's name where that says it, else by the types of its operands."""
        weights = [*(tensor.datatype for tensor in self.constants), self.weights_type]
        return precision_of_tactic(self.tactic) or precision_of_operands((t.datatype for t in self.inputs), weights)

    @property
    def writes_int8(self) -> bool:
        """Whether every output is INT8, which sparse INT8 kernels of compute capability 8.x need."""
        return bool(self.outputs) and all(tensor.datatype == "Int8" for tensor in self.outputs)


def layer_from_fields(fields: Mapping[str, Any]) -> EngineLayer:
    """A layer from the fields of the library's own record; fields that are absent stay empty."""
    weights, sparse = fields.get("Weights"), fields.get("HasSparseWeights")
    metadata = str(fields.get("Metadata", "") or "")
    return EngineLayer(
        name=str(fields.get("Name", "")),
        kind=str(fields.get("LayerType", "")),
        inputs=_tensors(fields.get("Inputs")),
        outputs=_tensors(fields.get("Outputs")),
        constants=_tensors(fields.get("Constants")),
        nodes=_nodes(metadata, str(fields.get("Name", ""))),
        tactic=str(fields.get("TacticName", "") or ""),
        sparse_weights=None if sparse is None else str(sparse) in ("1", "True"),
        weights_type=_datatype(str(weights.get("Type", "")) if isinstance(weights, Mapping) else str(weights or "")),
    )


def _nodes(metadata: str, name: str) -> tuple[str, ...]:
    """ONNX nodes by the metadata; without it (8.x) by the parts of the fused name."""
    found = tuple(dict.fromkeys(_NODE.findall(metadata)))
    return found or tuple(part for part in re.split(r" \+ |\+", name) if _GEMM_NODE.search(part.strip()))


def _tensors(records: Any) -> tuple[Tensor, ...]:
    return tuple(_tensor(record) for record in records or () if isinstance(record, Mapping))


def _tensor(record: Mapping[str, Any]) -> Tensor:
    both = str(record.get("Format/Datatype", ""))
    return Tensor(
        name=str(record.get("Name", "")),
        datatype=_datatype(str(record.get("Datatype", both))),
        format=str(record.get("Format", both)),
        dimensions=_dimensions(record.get("Dimensions")),
    )


def _dimensions(given: Any) -> tuple[int, ...]:
    numbers = re.findall(r"-?\d+", given) if isinstance(given, str) else given or ()
    return tuple(int(number) for number in numbers)


def _datatype(text: str) -> str:
    match = _TYPE_NAME.search(text)
    return _NAMES.get(match[1], match[1]) if match else ""


def _role_of_words(words: tuple[str, ...]) -> Role:
    used = set(words)
    if not used:
        return "other"
    if used <= _CASTS:
        return "cast"
    if used <= _MOVES:
        return "reformat"
    return "quantize" if "Roun" in used and used <= _QUANTIZES else "other"
