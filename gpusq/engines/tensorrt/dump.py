"""The one-line-per-layer text form of layer information, split without regard to the order of its fields."""

from __future__ import annotations

import re
from typing import Any

from gpusq.engines.tensorrt.engine_layer import EngineLayer, layer_from_fields

_TENSORS = ("Inputs", "Outputs", "Constants")
_FIELD = re.compile(
    r"(?:^|, )(Name|LayerType|Inputs|Outputs|Constants|TacticName|TacticValue|StreamId|Metadata|HasSparseWeights|"
    r"ParameterType|Weights|Origin): ?"
)
_TENSOR_FIELD = re.compile(r"(?:^|, )(Name|Location|Dimensions|Strides|StrideOrder|Datatype|Format/Datatype|Format): ?")


def parse_dump(dump: str) -> tuple[EngineLayer, ...]:
    """The layers of a "Layers:" message in plan order; lines that are no layers are passed over."""
    lines = (line.strip() for line in dump.splitlines())
    found = (_fields(line) for line in lines if line.startswith("Name: ") and "LayerType: " in line)
    return tuple(layer_from_fields(fields) for fields in found if "LayerType" in fields)


def _fields(line: str) -> dict[str, Any]:
    """Field -> value; tensors as lists of their own fields. Brackets are followed, so names inside stay inside."""
    fields: dict[str, Any] = {}
    starts = [match for match in _FIELD.finditer(line) if _depth(line, match.start()) == 0]
    for match, following in zip(starts, [*starts[1:], None], strict=True):
        text = line[match.end() : following.start() if following else len(line)].strip()
        fields.setdefault(match[1], [_tensor(t) for t in _objects(text)] if match[1] in _TENSORS else text)
    return fields


def _depth(line: str, end: int) -> int:
    """How many braces are open before `end`; tensors are the only parts in braces."""
    return line.count("{", 0, end) - line.count("}", 0, end)


def _objects(text: str) -> list[str]:
    return [part.strip() for part in re.findall(r"\{(.*?)\}", text)]


def _tensor(text: str) -> dict[str, str]:
    starts = list(_TENSOR_FIELD.finditer(text))
    ends = [*(match.start() for match in starts[1:]), len(text)][: len(starts)]
    return {match[1]: text[match.end() : end].strip() for match, end in zip(starts, ends, strict=True)}
