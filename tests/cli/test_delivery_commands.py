"""`gpusq package` on what a real run made: the packaged model gives the outputs that the engine was sealed with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from safetensors.numpy import load
from typer.testing import CliRunner

from gpusq.cli.main import app
from tests.chain import Chain
from tests.delivery.triton_schema import model_config


def package(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["package", *map(str, arguments)])
    return done.exit_code, done.stdout


@pytest.mark.parametrize(("target", "kind"), [("cpu", "engine"), ("a100-40gb", "bundle")])
def test_a_triton_model_answers_as_the_artifact_says(tmp_path: Path, chain: Chain, target: str, kind: str) -> None:
    import onnxruntime

    artifact = chain.artifact("build", target=target)
    assert artifact.kind == kind
    code, told = package(artifact.path, "--as", "triton", "--out", tmp_path / "models", "--name", "vit", "--json")
    assert code == 0
    assert set(json.loads(told)["files"]) == {"1/model.onnx", "README.md", "config.pbtxt", "labels.txt"}

    config = text_format.Parse((tmp_path / "models/vit/config.pbtxt").read_text(), model_config().ModelConfig())
    session = onnxruntime.InferenceSession(tmp_path / "models/vit/1/model.onnx", providers=["CPUExecutionProvider"])
    image, logits = session.get_inputs()[0], session.get_outputs()[0]
    assert (config.input[0].name, list(config.input[0].dims)) == (image.name, image.shape[1:])
    assert (config.output[0].name, list(config.output[0].dims)) == (logits.name, logits.shape[1:])
    samples = load(artifact.read("samples.safetensors"))
    found = session.run(["logits"], {"pixel_values": samples["pixel_values"]})[0]
    assert np.abs(found - samples["logits"]).max() < 0.05 * np.abs(samples["logits"]).max()
    assert (tmp_path / "models/vit/labels.txt").read_text().split() == list(artifact.read_json("model.json")["classes"])


def test_refusals(tmp_path: Path, chain: Chain) -> None:
    engine, bundle = chain.artifact("build", target="cpu").path, chain.artifact("build", target="a100-40gb").path
    assert package(engine, "--as", "deepstream", "--out", tmp_path / "a")[0] == 2
    assert package(engine, "--as", "triton", "--out", tmp_path / "b", "--input-from-meta")[0] == 2
    assert package(chain.artifact("export").path, "--as", "triton", "--out", tmp_path / "c")[0] == 2
    assert package(tmp_path / "nothing", "--as", "triton", "--out", tmp_path / "d")[0] != 0
    assert package(engine, "--as", "torchserve", "--out", tmp_path / "e")[0] == 2
    assert package(bundle, "--as", "deepstream", "--out", tmp_path / "f", "--max-batch", "99")[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_a_spoilt_engine_is_not_packaged(tmp_path: Path, chain: Chain) -> None:
    store = chain.copy(tmp_path / "store")
    engine = store.resolve(f"engine-{chain.artifact('build', target='cpu').digest[:12]}").path
    (engine / "model.onnx").chmod(0o644)
    (engine / "model.onnx").write_bytes((engine / "model.onnx").read_bytes() + b"\0")
    assert package(engine, "--as", "triton", "--out", tmp_path / "models")[0] == 5
    assert not (tmp_path / "models").exists()


def test_these_rooms_start_without_heavy_libraries() -> None:
    heavy = ("torch", "onnx", "onnxruntime", "openvino", "tensorrt_rtx", "google.protobuf")
    code = (
        "import sys, gpusq.doctor, gpusq.delivery, gpusq.gates, gpusq.matrix\n"
        f"print(*[name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
