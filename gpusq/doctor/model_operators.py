"""The operators of a model, for the known-bad list. A bundle is verified before its graph is parsed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpusq.errors import MissingExtraError, UnsupportedModelError


def operators_of_bundle(directory: Path) -> frozenset[str]:
    """Op types of the bundle's FP16 graph. Raises TamperedArtifactError before anything is parsed."""
    from gpusq.engines.bundle import FP16
    from gpusq.engines.sealed_bundle import read_bundle

    return operators_of_bytes(read_bundle(directory).files[FP16], str(directory / FP16))


def operators_of_file(path: Path) -> frozenset[str]:
    """Op types of an ONNX file. Raises UnsupportedModelError where it cannot be read."""
    try:
        return operators_of_bytes(path.read_bytes(), str(path))
    except OSError as error:
        raise UnsupportedModelError(
            f"{path} must be readable", got=str(error.strerror), do="give the path of an ONNX file"
        ) from error


def operators_of_bytes(data: bytes, name: str) -> frozenset[str]:
    """Op types of a serialized ONNX model, subgraphs and local functions included."""
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("onnx", "host", "reading the operators of a model") from error
    try:
        model = onnx.load_from_string(data)
    except Exception as error:  # protobuf's own error type differs by its version
        raise UnsupportedModelError(f"{name} is an ONNX model", got=str(error)[:200], do="export it again") from error
    if not model.graph.node:
        raise UnsupportedModelError(f"{name} holds a graph", got="no node", do="give an ONNX model")
    return frozenset(_op_types(model.graph.node)).union(*(_op_types(f.node) for f in model.functions))


def _op_types(nodes: Any) -> Iterator[str]:
    for node in nodes:
        yield str(node.op_type)
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _op_types(graph.node)
