"""The model repository, parsed with Triton's own message classes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from gpusq.delivery import contents_of, write_triton
from gpusq.delivery.contents import Tensor
from gpusq.delivery.triton import quoted, triton_config
from gpusq.errors import UsageError
from tests.delivery import artifacts
from tests.delivery.triton_schema import model_config


def parsed(text: str) -> Any:
    return text_format.Parse(text, model_config().ModelConfig())


def test_a_tensorrt_plan(tmp_path: Path) -> None:
    engine = artifacts.device_engine(tmp_path / "store")
    name = write_triton(contents_of(engine), tmp_path / "models", "vit")
    folder = tmp_path / "models" / "vit"
    assert name == "vit"
    assert (folder / "1/model.plan").read_bytes() == engine.read("engine.plan")
    config = parsed((folder / "config.pbtxt").read_text())
    assert (config.name, config.platform, config.backend) == ("vit", "tensorrt_plan", "")
    assert config.max_batch_size == 32
    (image,), (logits,) = config.input, config.output
    fp32 = model_config().DataType.Value("TYPE_FP32")
    assert (image.name, image.data_type, list(image.dims)) == ("pixel_values", fp32, [3, 32, 48])
    assert (logits.name, logits.data_type, list(logits.dims)) == ("logits", fp32, [3])
    assert logits.label_filename == "labels.txt"
    assert (folder / "labels.txt").read_text().splitlines() == list(artifacts.CLASSES)
    assert list(config.dynamic_batching.preferred_batch_size) == [8, 32]
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    (group,) = config.instance_group
    assert (group.count, group.kind) == (1, model_config().ModelInstanceGroup.KIND_GPU)
    assert config.parameters["gpusq.digest"].string_value == engine.digest
    assert "10.16.1.11" in config.parameters["gpusq.place"].string_value
    assert "10.16.1.11" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("runtime", "platform", "backend", "files"),
    [
        ("onnxruntime", "onnxruntime_onnx", "", {"model.onnx"}),
        ("openvino", "", "openvino", {"model.xml", "model.bin"}),
    ],
)
def test_cpu_engines(tmp_path: Path, runtime: str, platform: str, backend: str, files: set[str]) -> None:
    engine = artifacts.cpu_engine(tmp_path / "store", runtime)
    name = write_triton(contents_of(engine), tmp_path / "models")
    folder = tmp_path / "models" / name
    config = parsed((folder / "config.pbtxt").read_text())
    assert name == f"gpusq-{engine.digest[:12]}" == config.name
    assert (config.platform, config.backend) == (platform, backend)
    assert config.instance_group[0].kind == model_config().ModelInstanceGroup.KIND_CPU
    assert {p.name for p in (folder / "1").iterdir()} == files


def test_a_bundle_is_packaged_as_what_it_is(tmp_path: Path) -> None:
    name = write_triton(contents_of(artifacts.bundle(tmp_path / "store")), tmp_path / "models")
    assert parsed((tmp_path / "models" / name / "config.pbtxt").read_text()).platform == "onnxruntime_onnx"
    assert "not the TensorRT engine" in (tmp_path / "models" / name / "README.md").read_text()


def test_a_detector_has_no_label_file_for_its_logits(tmp_path: Path) -> None:
    contents = contents_of(artifacts.device_engine(tmp_path))
    outputs = (Tensor("logits", (100, 3)), Tensor("boxes", (100, 4)))
    config = parsed(triton_config(replace(contents, outputs=outputs), "d", 0))
    assert [(o.name, list(o.dims), o.label_filename) for o in config.output] == [
        ("logits", [100, 3], ""),
        ("boxes", [100, 4], ""),
    ]


@given(st.integers(1, 512), st.integers(1, 512), st.integers(0, 10**6))
def test_any_batch_sizes_parse(largest: int, best: int, delay: int) -> None:
    contents = contents_without_files()
    config = parsed(triton_config(replace(contents, max_batch=largest, best_batch=min(best, largest)), "m", delay))
    assert config.max_batch_size == largest
    assert all(1 < size <= largest for size in config.dynamic_batching.preferred_batch_size)
    assert config.HasField("dynamic_batching")


@given(st.text())
def test_any_text_comes_back_from_a_quoted_string(text: str) -> None:
    valid = text.encode("utf-8", "replace").decode()
    assert parsed(f"name: {quoted(valid)}").name == valid


def contents_without_files() -> Any:
    from gpusq.delivery import Contents

    return Contents(
        "tensorrt", {}, Tensor("pixel_values", (3, 8, 8)), (Tensor("logits", (2,)),), 8, 4, ("a", "b"),
        (0.5,) * 3, (0.5,) * 3, "bilinear", "", "0" * 64,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["", "../up", "a/b", "-x", "a b"])
def test_a_name_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        write_triton(contents_without_files(), tmp_path / "models", name or " ")
    assert not (tmp_path / "models").exists()


def test_an_existing_model_is_not_overwritten(tmp_path: Path) -> None:
    contents = contents_of(artifacts.device_engine(tmp_path / "store"))
    write_triton(contents, tmp_path / "models", "vit")
    with pytest.raises(UsageError, match="new or empty"):
        write_triton(contents, tmp_path / "models", "vit")


def test_a_spoilt_configuration_does_not_parse() -> None:
    text = triton_config(contents_without_files(), "m", 0)
    with pytest.raises(text_format.ParseError):
        parsed(re.sub("max_batch_size", "max_batch", text))
    with pytest.raises(text_format.ParseError):
        parsed(text.replace("TYPE_FP32", "TYPE_FLOAT"))
