"""The Gst-nvinfer configuration: documented keys only, and the same numbers as our own preprocessing."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import numpy as np
import pytest

from gpusq.data.preprocess import Preprocess
from gpusq.delivery import contents_of, write_deepstream
from gpusq.delivery.deepstream import check_properties, documented_keys, scale_and_offsets
from gpusq.errors import CheckError, UsageError
from tests.delivery import artifacts

# Key names of gstnvinfer_property_parser.h (DeepStream 6), those that this package writes or might
PARSER_KEYS = {
    "gpu-id",
    "gie-unique-id",
    "process-mode",
    "network-type",
    "network-mode",
    "batch-size",
    "interval",
    "model-engine-file",
    "onnx-file",
    "labelfile-path",
    "infer-dims",
    "network-input-order",
    "model-color-format",
    "net-scale-factor",
    "offsets",
    "maintain-aspect-ratio",
    "scaling-filter",
    "output-blob-names",
    "output-tensor-meta",
    "input-tensor-from-meta",
    "symmetric-padding",
    "mean-file",
    "int8-calib-file",
    "workspace-size",
    "force-implicit-batch-dim",
    "classifier-threshold",
    "num-detected-classes",
    "cluster-mode",
    "custom-lib-path",
    "parse-bbox-func-name",
    "enable-dla",
    "use-dla-core",
    "scaling-compute-hw",
}


def read(path: Path) -> dict[str, str]:
    """The [property] group."""
    parser = configparser.ConfigParser(delimiters=("=",), comment_prefixes=("#",), interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign, assignment]
    parser.read(path)
    assert parser.sections() == ["property"]
    return dict(parser["property"])


def test_an_engine(tmp_path: Path) -> None:
    engine = artifacts.device_engine(tmp_path / "store")
    write_deepstream(contents_of(engine), tmp_path / "out")
    found = read(tmp_path / "out/config_infer.txt")
    assert set(found) <= PARSER_KEYS
    assert set(found) <= set(documented_keys())
    assert (tmp_path / "out" / found["model-engine-file"]).read_bytes() == engine.read("engine.plan")
    assert (tmp_path / "out" / found["labelfile-path"]).read_text().splitlines() == list(artifacts.CLASSES)
    assert (found["infer-dims"], found["batch-size"]) == ("3;32;48", "32")
    assert (found["network-type"], found["output-tensor-meta"]) == ("100", "1")
    assert (found["model-color-format"], found["maintain-aspect-ratio"], found["scaling-filter"]) == ("0", "0", "1")
    assert "onnx-file" not in found
    assert "softmax" in (tmp_path / "out/README.md").read_text()


def test_the_plugin_would_compute_what_the_model_was_trained_on(tmp_path: Path) -> None:
    contents = contents_of(artifacts.device_engine(tmp_path, std=(0.25, 0.25, 0.25)))
    write_deepstream(contents, tmp_path / "out")
    found = read(tmp_path / "out/config_infer.txt")
    factor, offsets = float(found["net-scale-factor"]), [float(v) for v in found["offsets"].split(";")]
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 32, 48), dtype=np.uint8)
    ours = Preprocess((32, 48), 3, contents.mean, contents.std).normalised(pixels)
    theirs = factor * (pixels - np.array(offsets)[:, None, None])
    assert np.abs(ours - theirs).max() < 1e-5


def test_one_scale_cannot_do_three_standard_deviations(tmp_path: Path) -> None:
    contents = contents_of(artifacts.device_engine(tmp_path / "store", std=(0.229, 0.224, 0.225)))
    with pytest.raises(UsageError, match="one scale for all channels") as refused:
        write_deepstream(contents, tmp_path / "out")
    assert "--input-from-meta" in refused.value.do
    assert not (tmp_path / "out").exists()
    write_deepstream(contents, tmp_path / "out", from_meta=True)
    found = read(tmp_path / "out/config_infer.txt")
    assert found["input-tensor-from-meta"] == "1"
    assert not {"net-scale-factor", "offsets"} & set(found)
    assert "0.229" in (tmp_path / "out/README.md").read_text()


def test_a_bundle_names_its_onnx_file_and_says_what_is_lost(tmp_path: Path) -> None:
    write_deepstream(contents_of(artifacts.bundle(tmp_path / "store")), tmp_path / "out")
    found = read(tmp_path / "out/config_infer.txt")
    assert (found["onnx-file"], found["network-mode"]) == ("model.onnx", "0")
    assert "model-engine-file" not in found
    assert re.search("without any of gpusq's checks", (tmp_path / "out/README.md").read_text())


def test_cpu_engines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="TensorRT"):
        write_deepstream(contents_of(artifacts.cpu_engine(tmp_path / "store", "onnxruntime")), tmp_path / "out")


def test_a_grey_model(tmp_path: Path) -> None:
    import json

    files = {
        "engine.plan": b"plan",
        "engine.json": json.dumps({"place": artifacts.PLACE, "profile": {"maximum": 4}}).encode(),
        "model.json": json.dumps(artifacts.description(mean=[0.5], std=[0.5])).encode(),
        "samples.safetensors": artifacts.samples(image=(1, 28, 28)),
    }
    write_deepstream(contents_of(artifacts.sealed(tmp_path / "store", "engine", files)), tmp_path / "out")
    found = read(tmp_path / "out/config_infer.txt")
    assert (found["model-color-format"], found["offsets"], found["infer-dims"]) == ("2", "127.5", "1;28;28")


@pytest.mark.parametrize(
    ("properties", "needle"),
    [
        ({"net-scale-facto": 1.0}, "no such key"),
        ({"net-scale-factor": 0.0}, "above 0"),
        ({"net-scale-factor": 1}, "type float"),
        ({"network-type": 4}, "one of"),
        ({"batch-size": 0}, "at least 1"),
        ({"batch-size": True}, "type integer"),
        ({"infer-dims": (3, 32)}, "3 numbers"),
        ({"offsets": (1.0, 2.0)}, "each channel"),
        ({"model-engine-file": 3}, "type string"),
    ],
)
def test_a_wrong_key_or_value_is_caught(properties: dict[str, object], needle: str) -> None:
    with pytest.raises(CheckError, match=needle):
        check_properties(properties, 3)


def test_scale_and_offsets_of_equal_deviations(tmp_path: Path) -> None:
    factor, offsets = scale_and_offsets(contents_of(artifacts.device_engine(tmp_path)))
    assert factor == pytest.approx(1 / 127.5)
    assert offsets == pytest.approx((127.5, 102.0, 76.5))


def test_every_rule_of_the_table_has_a_type() -> None:
    assert {rule["type"] for rule in documented_keys().values()} <= {"integer", "float", "string", "integers", "floats"}
    assert set(documented_keys()) <= PARSER_KEYS
