"""An exported ONNX file as a Workload with the form of each layer: by shapes, Q/DQ nodes and weight bytes.

Reads gpusq's own exports and foreign ones. Nothing runs and torch is not imported; onnx is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpusq.errors import MissingExtraError, UnsupportedModelError
from gpusq.latency.onnx_reader import FLOATS, Reader
from gpusq.latency.onnx_tensors import read_graph
from gpusq.latency.onnx_weights import parameters
from gpusq.workload import Layer, Workload

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class OnnxModel:
    """What a file computes. workload counts for one image; layers: the form of each GEMM with weights.

    precision: of what is not quantized, as most multiplications have it. int8_attention: every product of activations
    is INT8 too. unknown: operators counted as memory-bound for want of a model, by name. images: batch that the file
    fixes (1 where it is open). notes: what a reader should know.
    """

    workload: Workload
    layers: tuple[Layer, ...]
    precision: str
    int8_attention: bool
    unknown: dict[str, int]
    images: int
    notes: tuple[str, ...] = ()


def read_onnx(source: Path | bytes, shapes: Mapping[str, tuple[int, ...]] | None = None) -> OnnxModel:
    """The workload of an ONNX file (external data beside it is found) or of its bytes.

    shapes: the whole shape of an input whose file leaves more than the batch open. Raises MissingExtraError without
    onnx, UnsupportedModelError for what is no ONNX model or cannot be followed, UsageError for an open dimension.
    """
    return workload_of(load_onnx(source), shapes)


def load_onnx(source: Path | bytes) -> onnx.ModelProto:
    """The parsed file. Raises MissingExtraError, UnsupportedModelError (with the parser's reason)."""
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("onnx", "host", "reading an ONNX file") from error
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    where = "the ONNX bytes" if isinstance(source, bytes) else str(source)
    try:
        model = onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(str(source))
    except FileNotFoundError as error:
        missing = Path(str(error.filename or source))
        raise UnsupportedModelError(
            f"{where} must be readable", got=f"no file {missing}", do="check the path"
        ) from error
    except (DecodeError, ValueError, onnx.checker.ValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UnsupportedModelError(f"{where} is an ONNX model", got=reason, do="export the model again") from error
    if not model.graph.node:
        raise UnsupportedModelError(f"{where} is an ONNX model with nodes", got="no nodes", do="export the model again")
    return model


def workload_of(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]] | None = None) -> OnnxModel:
    """The workload of a parsed model; see `read_onnx`."""
    graph = read_graph(model, shapes)
    reader = Reader(graph)
    for node in graph.nodes:
        reader.visit(node)
    if not reader.ops:
        raise UnsupportedModelError(
            "an ONNX model must compute something from its inputs", got="no such node", do="export the model again"
        )
    shape = graph.tensors[graph.inputs[0]].shape
    return OnnxModel(
        workload=Workload(_image_shape(shape), tuple(reader.ops), parameters(graph)),
        layers=tuple(reader.layers),
        precision=max(FLOATS.values(), key=lambda name: reader.float_macs[name]),
        int8_attention=bool(reader.products_int8) and all(reader.products_int8),
        unknown=dict(sorted(reader.unknown.items())),
        images=graph.images,
        notes=reader.notes(),
    )


def _image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(channels, height, width) of one item; other ranks are filled up with ones from the left, or flattened."""
    item = shape[1:]
    while len(item) > len("chw"):
        item = (item[0] * item[1], *item[2:])
    c, h, w = (1,) * (len("chw") - len(item)) + item
    return c, h, w
