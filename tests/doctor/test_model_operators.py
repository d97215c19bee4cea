"""Operators of a model: from an ONNX file, and from a bundle only after every byte was checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from gpusq.doctor import examine_model
from gpusq.doctor.model_operators import operators_of_bytes
from gpusq.engines.bundle import BatchProfile, write_bundle
from gpusq.errors import TamperedArtifactError, UnsupportedModelError


def model_bytes() -> bytes:
    """A model with GridSample, and TopK inside the branch of an If."""
    value = helper.make_tensor_value_info
    inner = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "then", [], [value("y", TensorProto.FLOAT, None)]
    )
    other = helper.make_graph(
        [helper.make_node("Sigmoid", ["x"], ["y"])], "else", [], [value("y", TensorProto.FLOAT, None)]
    )
    nodes = [
        helper.make_node("GridSample", ["x", "g"], ["s"]),
        helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=other),
    ]
    inputs = [
        value("x", TensorProto.FLOAT, [1, 1, 4, 4]),
        value("g", TensorProto.FLOAT, [1, 2, 2, 2]),
        value("c", TensorProto.BOOL, []),
    ]
    outputs = [value("s", TensorProto.FLOAT, None), value("z", TensorProto.FLOAT, None)]
    return bytes(helper.make_model(helper.make_graph(nodes, "g", inputs, outputs)).SerializeToString())


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_bundle(
        tmp_path / "bundle",
        target={"name": "agx-orin", "title": "Jetson"},
        fp16_onnx=model_bytes(),
        fp32_onnx=model_bytes(),
        pixel_values=np.zeros((1, 1, 4, 4), np.float32),
        logits=np.zeros((1, 2), np.float32),
        profile=BatchProfile(1, 1, 1),
        rtx_checks=(),
        tolerance=0.05,
    )
    return tmp_path / "bundle"


def test_operators_in_branches_count() -> None:
    assert operators_of_bytes(model_bytes(), "m") == {"GridSample", "If", "Relu", "Sigmoid"}


def test_a_file_and_a_bundle(tmp_path: Path, bundle: Path) -> None:
    file = tmp_path / "m.onnx"
    onnx.save(onnx.load_from_string(model_bytes()), file)
    assert examine_model(None, None) is None
    assert examine_model(file, bundle) == {"GridSample", "If", "Relu", "Sigmoid"}


def test_a_changed_bundle_is_refused_before_it_is_parsed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = bundle / "model.fp16.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"!")

    def parsed(*_: object, **__: object) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr(onnx, "load_from_string", parsed)
    with pytest.raises(TamperedArtifactError):
        examine_model(None, bundle)


@pytest.mark.parametrize("data", [b"", b"not onnx at all"])
def test_what_is_no_model_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(UnsupportedModelError):
        examine_model(tmp_path / "m.onnx", None)
    with pytest.raises(UnsupportedModelError):
        examine_model(tmp_path / "missing.onnx", None)
