"""A bundle is whole or refused before anything in it is parsed; finishing needs TensorRT and says so."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusq.engines.bundle import FINISH_TEXT, BatchProfile, json_bytes, write_bundle
from gpusq.engines.rtx_layers import RtxCheck
from gpusq.engines.sealed_bundle import read_bundle
from gpusq.errors import ArtifactNotFoundError, NewerSchemaError, TamperedArtifactError, UsageError

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
    """Change the manifest and seal it anew, in its one spelling: only what it says is wrong."""
    manifest = json.loads((directory / "bundle.json").read_text()) | change
    manifest.pop("digest")
    digest = hashlib.sha256(json_bytes(manifest)).hexdigest()
    (directory / "bundle.json").write_bytes(json_bytes(manifest | {"digest": digest}))


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
    assert b"gpusq build THIS_DIR --twin TWIN_DIR" in bundle.files["FINISH.md"]


def test_a_task_and_more_outputs_travel_and_older_bundles_are_classifiers(tmp_path: Path) -> None:
    boxes = np.ones((2, 6, 4), np.float32)
    bundle = read_bundle(write(tmp_path / "a", task="detection", agreement=0.9, more_outputs={"boxes": boxes}))
    assert (bundle.task, bundle.agreement) == ("detection", 0.9)
    images, outputs = bundle.expected()
    assert images.shape == (2, 3, 4, 4)
    assert {name: array.shape for name, array in outputs.items()} == {"logits": (2, 5), "boxes": (2, 6, 4)}
    older = write(tmp_path / "b")
    manifest = json.loads((older / "bundle.json").read_text())
    for name in ("task", "agreement", "digest"):
        del manifest[name]
    digest = hashlib.sha256(json_bytes(manifest)).hexdigest()
    (older / "bundle.json").write_bytes(json_bytes(manifest | {"digest": digest}))
    assert (read_bundle(older).task, read_bundle(older).agreement) == ("classification", 0.95)


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
            with pytest.raises(TamperedArtifactError):
                read_bundle(directory)
        path.write_bytes(whole)
    read_bundle(directory)


@pytest.mark.parametrize("name", ["model.fp16.onnx", "samples.safetensors", "bundle.json", "model.json"])
def test_truncated_missing_and_linked_files_are_refused(tmp_path: Path, name: str) -> None:
    directory = write(tmp_path / "bundle")
    path = directory / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
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


def test_reading_needs_neither_torch_nor_onnx(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from gpusq.engines.sealed_bundle import read_bundle\n"
        "read_bundle(pathlib.Path(sys.argv[1])).samples()\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'openvino'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(write(tmp_path))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_bundle_that_is_not_there_is_not_a_changed_one(tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFoundError, match="directory of a bundle"):
        read_bundle(tmp_path / "nope")
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactNotFoundError):
        read_bundle(tmp_path / "file")
    (tmp_path / "other").mkdir()
    with pytest.raises(TamperedArtifactError):
        read_bundle(tmp_path / "other")


def test_the_instructions_install_from_sources_and_never_from_an_index_by_name() -> None:
    """gpusq is on no index: a name that somebody else registers would run that code on the device."""
    assert not re.search(r"pip install\b.*\bgpusq", FINISH_TEXT)
    script = Path(__file__).resolve().parents[2] / "scripts/install_device.sh"
    others = {"--wheel", "--twin", "--out", "--receipt", "--store"}
    options = set(re.findall(r"(?<![\w-])--[a-z-]+", FINISH_TEXT)) - others
    assert options
    assert all(f" {option}" in script.read_text() for option in options)
    assert "scripts/install_device.sh" in FINISH_TEXT
