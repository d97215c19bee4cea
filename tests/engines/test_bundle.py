"""A bundle is whole or refused before anything in it is parsed; finishing needs TensorRT and says so."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusq.engines import tensorrt
from gpusq.engines.bundle import BatchProfile, read_bundle, write_bundle
from gpusq.engines.rtx_layers import RtxCheck
from gpusq.errors import EngineError, MissingExtraError, NewerSchemaError, TamperedArtifactError, UsageError

TARGET = {"name": "a100-40gb", "title": "NVIDIA A100 40 GB", "compute_capability": "8.0"}


def beside(directory: Path) -> Path:
    """Where a finished engine goes: outside the bundle."""
    return directory.with_name(directory.name + "-engine")


def write(directory: Path, **changes: Any) -> Path:
    given: dict[str, Any] = {
        "target": TARGET,
        "fp16_onnx": b"half model",
        "fp32_onnx": b"full model",
        "pixel_values": np.arange(96, dtype=np.float32).reshape(2, 3, 4, 4),
        "logits": np.eye(2, 5, dtype=np.float32),
        "profile": BatchProfile(1, 8, 32),
        "rtx_checks": [RtxCheck("8.0", True, 1.25, 10), RtxCheck("8.6", True, 2.5, 10)],
        "tolerance": 0.02,
        "extra": {"model.json": b"{}"},
    }
    write_bundle(directory, **given | changes)
    return directory


def reseal(directory: Path, change: dict[str, Any]) -> None:
    manifest = json.loads((directory / "bundle.json").read_text()) | change
    manifest.pop("digest")
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    manifest["digest"] = hashlib.sha256(text.encode()).hexdigest()
    (directory / "bundle.json").write_text(json.dumps(manifest))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    bundle = read_bundle(write(tmp_path))
    assert bundle.target == TARGET
    assert bundle.profile == BatchProfile(1, 8, 32)
    assert (bundle.tolerance, bundle.input_name, bundle.input_shape) == (0.02, "pixel_values", (3, 4, 4))
    assert bundle.files["model.fp16.onnx"] == b"half model"
    pixel_values, logits = bundle.samples()
    assert (pixel_values.shape, logits.shape) == ((2, 3, 4, 4), (2, 5))
    assert {"rtx-sm80.json", "rtx-sm86.json", "FINISH.md", "model.json"} <= set(bundle.files)
    assert json.loads(bundle.files["rtx-sm80.json"])["seconds"] == 0.0
    assert b"gpusq build BUNDLE_DIR" in bundle.files["FINISH.md"]


def test_same_arguments_same_bytes(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    assert {p.name: p.read_bytes() for p in first.iterdir()} == {p.name: p.read_bytes() for p in second.iterdir()}


def test_every_flipped_bit_position_class_is_caught(tmp_path: Path) -> None:
    directory = write(tmp_path)
    rng = np.random.default_rng(0)
    for path in sorted(directory.iterdir()):
        whole = path.read_bytes()
        for position in {0, len(whole) - 1, *rng.integers(0, len(whole), 20).tolist()}:
            damaged = bytearray(whole)
            damaged[position] ^= 1 << int(rng.integers(0, 8))
            path.write_bytes(damaged)
            if not _same_json(path, whole, bytes(damaged)):
                with pytest.raises(TamperedArtifactError):
                    read_bundle(directory)
        path.write_bytes(whole)
    read_bundle(directory)


def _same_json(path: Path, whole: bytes, damaged: bytes) -> bool:
    """A flip of white space in bundle.json may leave the same statement; nothing else in it may change."""
    try:
        return path.name == "bundle.json" and json.loads(whole) == json.loads(damaged)
    except ValueError:
        return False


@pytest.mark.parametrize("name", ["model.fp16.onnx", "samples.safetensors", "bundle.json", "model.json"])
def test_truncated_missing_and_linked_files_are_refused(tmp_path: Path, name: str) -> None:
    directory = write(tmp_path / "bundle")
    path = directory / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    if name != "bundle.json":  # whose last byte is a line end
        with pytest.raises(TamperedArtifactError):
            read_bundle(directory)
    path.unlink()
    with pytest.raises(TamperedArtifactError):
        read_bundle(directory)
    (tmp_path / "elsewhere").write_bytes(whole)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TamperedArtifactError):
        read_bundle(directory)


def test_swapped_and_added_files_are_refused(tmp_path: Path) -> None:
    directory = write(tmp_path)
    half, full = (directory / f"model.fp{bits}.onnx" for bits in (16, 32))
    first, second = half.read_bytes(), full.read_bytes()
    half.write_bytes(second)
    full.write_bytes(first)
    with pytest.raises(TamperedArtifactError, match=r"model\.fp16\.onnx"):
        read_bundle(directory)
    half.write_bytes(first)
    full.write_bytes(second)
    (directory / "plugin.so").write_bytes(b"")
    with pytest.raises(TamperedArtifactError, match=r"plugin\.so"):
        read_bundle(directory)


def test_the_seal_of_a_store_may_lie_beside_but_nothing_else(tmp_path: Path) -> None:
    directory = write(tmp_path)
    (directory / "artifact.json").write_bytes(b"x")
    read_bundle(directory)
    (directory / "engine.plan").write_bytes(b"x")
    with pytest.raises(TamperedArtifactError, match=r"engine\.plan"):
        read_bundle(directory)


def test_an_engine_inside_the_bundle_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    directory = write(tmp_path)
    for out in (directory, directory / "engine"):
        with pytest.raises(UsageError):
            tensorrt.finish_bundle(directory, out)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/b", "..", "", "nul\0"])
def test_names_that_leave_the_bundle_are_refused(tmp_path: Path, name: str) -> None:
    directory = write(tmp_path / "bundle")
    (tmp_path / "outside").write_bytes(b"")
    files = json.loads((directory / "bundle.json").read_text())["files"]
    reseal(directory, {"files": files | {name: {"sha256": hashlib.sha256(b"").hexdigest(), "size": 0}}})
    with pytest.raises(TamperedArtifactError):
        read_bundle(directory)


@pytest.mark.parametrize(
    "change",
    [{"files": {}}, {"files": 3}, {"profile": {}}, {"tolerance": "x"}, {"input_shape": None}, {"schema_version": "x"}],
)
def test_an_incomplete_manifest_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    directory = write(tmp_path)
    reseal(directory, change)
    with pytest.raises(TamperedArtifactError):
        read_bundle(directory)


def test_a_newer_bundle_is_refused_as_such(tmp_path: Path) -> None:
    directory = write(tmp_path)
    reseal(directory, {"schema_version": 2})
    with pytest.raises(NewerSchemaError, match="upgrade"):
        read_bundle(directory)


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"[" * 100_000, b"\xff\xfe", b'{"schema_version": 1}'])
def test_text_that_is_no_manifest_is_refused(tmp_path: Path, text: bytes) -> None:
    directory = write(tmp_path)
    (directory / "bundle.json").write_bytes(text)
    with pytest.raises(TamperedArtifactError):
        read_bundle(directory)


def test_refuses_samples_and_profiles_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="samples"):
        write(tmp_path, logits=np.zeros((3, 5), np.float32))
    for sizes in ((0, 1, 2), (2, 1, 3), (1, 4, 3)):
        with pytest.raises(UsageError, match="batch"):
            BatchProfile(*sizes)


def fake_tensorrt(*, parses: bool = True, builds: bool = True, typed_flag: bool = True) -> types.ModuleType:
    """The part of TensorRT that finishing uses; records the calls in `seen`."""
    trt = types.ModuleType("tensorrt")
    seen: dict[str, Any] = {}

    class Logger:
        VERBOSE, INFO = 4, 3

        def __init__(self) -> None:
            seen["logger"] = self

    class Error:
        def desc(self) -> str:
            return "node fc1/MatMul: unsupported"

    class Parser:
        num_errors = 0 if parses else 1

        def __init__(self, network: object, log: object) -> None:
            seen["network"] = network

        def parse(self, data: bytes) -> bool:
            seen["onnx"] = data
            return parses

        def get_error(self, index: int) -> Error:
            return Error()

    class Profile:
        def set_shape(self, *given: object) -> None:
            seen["profile"] = given

    class Config:
        profiling_verbosity = None

        def set_memory_pool_limit(self, pool: str, size: int) -> None:
            seen["workspace"] = size

        def set_flag(self, flag: str) -> None:
            seen.setdefault("flags", []).append(flag)

        def add_optimization_profile(self, profile: Profile) -> None:
            seen["added"] = profile

    class Builder:
        def __init__(self, log: Any) -> None:
            self.log = log

        def create_network(self, flags: int) -> int:
            return flags

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: object, config: Config) -> bytearray | None:
            self.log.log(4, "(Sparsity) Found 12 layer(s) eligible to use sparse tactics: a, b")
            self.log.log(3, "(Sparsity) Chose 7 layer(s) using sparse tactics: a")
            self.log.log(3, "out of memory")
            return bytearray(b"the plan") if builds else None

    names = types.SimpleNamespace
    trt.__version__ = "10.3.0"  # type: ignore[attr-defined]
    members = {
        "ILogger": Logger,
        "OnnxParser": Parser,
        "Builder": Builder,
        "NetworkDefinitionCreationFlag": names(STRONGLY_TYPED=1) if typed_flag else names(),
        "BuilderFlag": names(SPARSE_WEIGHTS="sparse"),
        "MemoryPoolType": names(WORKSPACE="workspace"),
        "ProfilingVerbosity": names(DETAILED="detailed"),
        "seen": seen,
    }
    for name, value in members.items():
        setattr(trt, name, value)
    return trt


@pytest.mark.parametrize(("typed_flag", "flags"), [(True, 2), (False, 0)])
def test_finishing_builds_what_the_bundle_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed_flag: bool, flags: int
) -> None:
    trt = fake_tensorrt(typed_flag=typed_flag)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    directory = write(tmp_path)
    facts = tensorrt.finish_bundle(directory, beside(tmp_path))
    assert trt.seen["onnx"] == b"half model"
    assert trt.seen["network"] == flags
    assert trt.seen["flags"] == ["sparse"]
    assert trt.seen["profile"] == ("pixel_values", (1, 3, 4, 4), (8, 3, 4, 4), (32, 3, 4, 4))
    assert (beside(tmp_path) / "engine.plan").read_bytes() == b"the plan"
    written = json.loads((beside(tmp_path) / "engine.json").read_text())
    assert written["plan_sha256"] == hashlib.sha256(b"the plan").hexdigest() == facts.plan_sha256
    assert (written["sparse_eligible"], written["sparse_chosen"]) == (12, 7)
    assert (written["target"], written["tensorrt"]) == ("a100-40gb", "10.3.0")
    tensorrt.finish_bundle(directory, beside(tmp_path))  # a second time over its own result


def test_a_tampered_bundle_never_reaches_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trt = fake_tensorrt()
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    directory = write(tmp_path)
    (directory / "model.fp16.onnx").write_bytes(b"HALF model")
    with pytest.raises(TamperedArtifactError):
        tensorrt.finish_bundle(directory, beside(tmp_path))
    assert trt.seen == {}


@pytest.mark.parametrize(
    ("changes", "message"), [({"parses": False}, "fc1/MatMul: unsupported"), ({"builds": False}, "out of memory")]
)
def test_a_refusal_of_tensorrt_carries_its_message_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, bool], message: str
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(**changes))
    directory = write(tmp_path)
    with pytest.raises(EngineError, match=message):
        tensorrt.finish_bundle(directory, beside(tmp_path))
    assert not (beside(tmp_path)).exists()


@pytest.mark.parametrize(("machine", "hint"), [("x86_64", r"gpusq\[tensorrt\]"), ("aarch64", "JetPack")])
def test_without_tensorrt_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, hint: str
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr("platform.machine", lambda: machine)
    with pytest.raises(MissingExtraError, match=hint):
        tensorrt.finish_bundle(write(tmp_path), beside(tmp_path))


def test_reading_needs_neither_torch_nor_onnx(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from gpusq.engines.bundle import read_bundle\n"
        "read_bundle(pathlib.Path(sys.argv[1])).samples()\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'openvino', 'pydantic'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(write(tmp_path))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"
