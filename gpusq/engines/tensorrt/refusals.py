"""Why a build failed, in words: memory, or the node, its operator and the layer of the model that it came from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from gpusq.engines.tensorrt.log import parse_log
from gpusq.errors import BuildMemoryError, EngineError, UnsupportedNodeError

LOG_TAIL_LINES = 5
_NO_KERNEL = (
    re.compile(r"Could not find any implementation for node (?P<node>.+?)\.?\)?$"),
    re.compile(r"(?P<node>[^\s:(\[]+)(?: \[[^\]]*\])? has no runners that implement it"),
    re.compile(r"(?P<node>\S+): Attention operation was not supported by a dedicated kernel"),
    re.compile(r"(?P<node>)not supported by a dedicated kernel"),
)
_PARSING = re.compile(r'While parsing node number \d+ \[(?P<operator>\S+) -> "(?P<output>[^"]*)"\]')
_NODE_NAME = re.compile(r'^(?:Node name: |name: ")(?P<name>[^"\n]+)"?$', re.MULTILINE)
_MENDS = (
    ("Plugin not found", "register the plugin, or export the model with standard operators"),
    ("No importer registered", "export with another opset, or replace the operator"),
    ("same input types", "the graph must be typed strongly: cast one input; export with gpusq writes the casts"),
    ("zero point", "quantize symmetrically: INT8 with zero point 0"),
    ("dedicated kernel", "export without the Attention operator (opset below 23)"),
)
_NO_IMPLEMENTATION = (
    "replace the operator, keep its layer in float, or build the float model with torch-tensorrt (gpusq build MODEL "
    "--builder torch-tensorrt, see docs/engines.md); the known limits are in `gpusq doctor`"
)


def layer_of(node_name: str) -> str:
    """Path of the module that a node of an exported graph came from: "block.fc1/MatMul" -> "block.fc1"; "" if none."""
    return node_name.rpartition("/")[0]


def parse_refusal(parser: Any, messages: Sequence[str], library: str) -> EngineError:
    """The error for a graph that the ONNX parser did not take: the first node that it named."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    first = errors[0] if errors else None
    text = " | ".join(_first_lines(_call(first, "desc"), 2)) or _tail(messages)
    node, operator = _call(first, "node_name"), _call(first, "node_operator")
    if not node:
        node, operator = _node_in_log(messages)
    if not node and not operator:
        return EngineError(
            f"{library} must parse the ONNX file of the bundle", got=text, do="export the model again: gpusq export"
        )
    return UnsupportedNodeError(
        f"{library} must parse {_place(node, operator)}",
        got=text,
        do=_mend(text) or "see the message; export with another opset or policy",
    )


def build_refusal(messages: Sequence[str], errors: Sequence[str], library: str, peak_mib: float) -> EngineError:
    """The error for a graph that parsed and did not build. peak_mib: resident memory of the process."""
    facts = parse_log([*messages, *errors])
    if facts.host_memory:
        return host_memory_refusal(library, facts.host_memory[-1], peak_mib)
    if facts.device_memory:
        return BuildMemoryError(
            f"{library} must build the engine in the memory of the device",
            got=" | ".join(line[:300] for line in dict.fromkeys(facts.device_memory[-2:])),
            do="close what uses the GPU, lower --workspace or the largest batch; on a Jetson add swap and stop the "
            "desktop",
        )
    for line in reversed([part for message in errors for part in message.splitlines()]):
        for pattern in _NO_KERNEL:
            if match := pattern.search(line):
                return UnsupportedNodeError(
                    f"{library} must have a kernel for {_place(match['node'], '')}",
                    got=line.strip()[:300],
                    do=_mend(line) or _NO_IMPLEMENTATION,
                )
    return EngineError(
        f"{library} must build the engine of the bundle",
        got=_tail(errors or messages),
        do="check the TensorRT version against the target's, and the free memory of the device",
    )


def host_memory_refusal(library: str, how: str, peak_mib: float) -> BuildMemoryError:
    """The error for a build that found no more memory of the host."""
    return BuildMemoryError(
        f"{library} must build the engine in the memory of this machine",
        got=f"{how[:300]}; the process held {peak_mib:.0f} MiB",
        do="close other programs or add swap; build smaller profiles first",
    )


def _node_in_log(messages: Sequence[str]) -> tuple[str, str]:
    """(name, operator) of the first node that the parser stopped at, for errors that do not name it; "" if none."""
    text = "\n".join(messages)
    at = _PARSING.search(text)
    if at is None:
        return "", ""
    end = text.find("--- End node ---", at.end())
    name = _NODE_NAME.search(text, at.end(), end if end >= 0 else len(text))
    return name["name"] if name else at["output"], at["operator"]


def _place(node: str, operator: str) -> str:
    """ "node fc1/MatMul (MatMul) of layer fc1"; a fused name lists its nodes."""
    kind = f" ({operator})" if operator else ""
    layer = layer_of(node.split("...")[0].removeprefix("{ForeignNode["))
    return f"node {node or '(not named)'}{kind}" + (f" of layer {layer}" if layer else "")


def _mend(text: str) -> str:
    return next((mend for wording, mend in _MENDS if wording in text), "")


def _call(error: Any, name: str) -> str:
    """A method of ParserError, "" where this version has none."""
    method = getattr(error, name, None)
    return str(method() or "") if method is not None else ""


def _first_lines(text: str, count: int) -> list[str]:
    return [line.strip()[:300] for line in text.splitlines() if line.strip()][:count]


def _tail(messages: Sequence[str]) -> str:
    lines = [line.strip()[:300] for message in messages for line in message.splitlines() if line.strip()]
    return " | ".join(lines[-LOG_TAIL_LINES:]) or "no message"
