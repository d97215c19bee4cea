"""Models in and out of bytes: no doc strings, no paths, no times, so that equal models are equal files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import gpusq
from gpusq.errors import UnsupportedModelError

if TYPE_CHECKING:
    import onnx_ir as ir

PROTOBUF_LIMIT_BYTES = 2**31 - 1


def strip(model: ir.Model) -> None:
    """Remove doc strings and exporter metadata everywhere; say who produced the file, in place."""
    from onnx_ir.passes import common

    common.ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    model.metadata_props["gpusq_version"] = gpusq.__version__
    model.producer_name, model.producer_version = "gpusq", gpusq.__version__
    model.domain, model.model_version, model.doc_string = None, None, None
    model.graph.name, model.graph.doc_string = "gpusq", None


def model_bytes(model: ir.Model) -> bytes:
    """The model as one ONNX file without external data; equal models give equal bytes.

    Raises UnsupportedModelError where it would exceed the 2 GiB that one protobuf can hold.
    """
    import onnx_ir as ir

    proto = ir.to_proto(model)
    size = proto.ByteSize()
    if size > PROTOBUF_LIMIT_BYTES:
        raise UnsupportedModelError("export: one ONNX file holds at most 2 GiB", got=f"{size / 2**30:.1f} GiB")
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def read_model(source: bytes | Path) -> ir.Model:
    """A model from a file or its bytes. Raises UnsupportedModelError for bytes that are no ONNX model."""
    import onnx
    import onnx_ir as ir
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    data = source if isinstance(source, bytes) else source.read_bytes()
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
        if not proto.graph.node:
            raise DecodeError("no nodes")
        model: ir.Model = ir.from_proto(proto)
    except (DecodeError, ValueError) as error:
        raise UnsupportedModelError("an ONNX model was expected", got=str(error) or "other bytes") from error
    return model
