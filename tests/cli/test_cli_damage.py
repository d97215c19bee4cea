"""Damaged artifacts, full disks, newer schemas, interruptions: refused, and the store as it was."""

from __future__ import annotations

import errno
import json
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusq.artifacts import Artifact, durable
from tests.chain import FAST, Chain, tree
from tests.cli.commands import gpusq, refused

SETTINGS = [part for setting in FAST for part in ("--set", setting)]
PRUNE = ("--epochs", "0", "--calibration-images", "16", "--batch-size", "16")


@pytest.fixture
def store(chain: Chain, tmp_path: Path) -> Path:
    """A copy of the finished run's store."""
    return chain.copy(tmp_path / "store").root


def flip(artifact: Artifact, store: Path, name: str) -> None:
    """One bit of one payload file, in the copy of the store."""
    path = store / "artifacts" / artifact.path.name / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["weights.safetensors", "masks.safetensors", "layers.json", "artifact.json"])
def test_an_artifact_with_one_flipped_bit(chain: Chain, store: Path, name: str) -> None:
    sparse = chain.artifact("prune")
    flip(sparse, store, name)
    reference = store / "artifacts" / sparse.path.name
    refused(store, "TamperedArtifactError", 5, (sparse.path.name,), "qat", reference, "--data", chain.images, *PRUNE)
    checked = gpusq("verify", "--store", store, "--json")
    assert checked.exit_code == 1
    problems = json.loads(checked.stdout)["problems"]
    assert len(problems) == 1
    assert name in problems[0]


def test_an_engine_with_one_flipped_bit_is_never_loaded(chain: Chain, store: Path) -> None:
    engine = chain.artifact("build", target="cpu")
    flip(engine, store, "model.onnx")
    refused(store, "TamperedArtifactError", 5, ("model.onnx",), "bench", engine.digest[:12])


def test_a_torn_artifact_under_the_key_of_the_run(chain: Chain, store: Path) -> None:
    sparse = chain.artifact("prune")
    path = store / "artifacts" / sparse.path.name / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    command = ("compress", "--model", "new:vit-test", "--data", chain.images, *SETTINGS)
    refused(store, "TamperedArtifactError", 5, ("weights.safetensors", "run the stage again"), *command)


def test_a_newer_schema(chain: Chain, store: Path) -> None:
    sparse = chain.artifact("prune")
    path = store / "artifacts" / sparse.path.name / "artifact.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 9'))
    qat = ("qat", path.parent, "--data", chain.images, *PRUNE)
    refused(store, "NewerSchemaError", 5, ("schema 9", "upgrade"), *qat)
    (store / "store.json").write_text('{"schema_version": 9}')
    refused(store, "NewerSchemaError", 5, ("schema 9", "upgrade"), "list")
    refused(store, "NewerSchemaError", 5, ("schema 9", "upgrade"), *qat)


def test_names_that_answer_to_nothing(store: Path, tmp_path: Path) -> None:
    refused(store, "ArtifactNotFoundError", 5, ("0123456789",), "show", "0123456789")
    error = refused(store, "ArtifactNotFoundError", 5, ("yesterday",), "report", "yesterday")
    assert error["do"]
    result = gpusq("list", "--store", tmp_path / "none", "--json")
    assert result.exit_code == 5
    assert not (tmp_path / "none").exists()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel refuses to let any file of this process grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("stage", ["prune", "export"])
def test_no_space_while_a_stage_writes(chain: Chain, store: Path, stage: str) -> None:
    parent = chain.artifact({"prune": "intake", "export": "qat"}[stage]).digest[:12]
    options = {"prune": (*PRUNE, "--seed", 3), "export": ("--samples", 3)}[stage]
    with largest_file(20_000):
        error = refused(store, "StoreFullError", 6, ("bytes free",), stage, parent, "--data", chain.images, *options)
    assert "free some space" in error["do"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_no_space_while_sealing(chain: Chain, store: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def full(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(durable.os, "rename", full)
    dense = chain.artifact("intake").digest[:12]
    command = ("prune", dense, "--data", chain.images, *PRUNE, "--seed", 3)
    refused(store, "StoreFullError", 6, (os.strerror(code),), *command)


def test_an_internal_error_has_its_own_code(chain: Chain, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpusq.stages import pruning

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(pruning, "prune_layer", broken)
    before = tree(store)
    dense = chain.artifact("intake").digest[:12]
    command = ("prune", dense, "--data", chain.images, *PRUNE, "--seed", 3, "--store", store)
    result = gpusq(*command)
    assert result.exit_code == 70
    assert "ZeroDivisionError: oops" in result.stderr
    assert tree(store) == before
    monkeypatch.setenv("GPUSQ_DEBUG", "1")
    assert isinstance(gpusq(*command).exception, ZeroDivisionError)


def test_ctrl_c_has_its_own_code_and_leaves_nothing(chain: Chain, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpusq.stages import pruning

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pruning, "prune_layer", stop)
    before = tree(store)
    dense = chain.artifact("intake").digest[:12]
    result = gpusq("prune", dense, "--data", chain.images, *PRUNE, "--seed", 3, "--store", store)
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert tree(store) == before


def test_finishing_a_bundle_without_tensorrt(chain: Chain, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    bundle = store / "artifacts" / chain.artifact("build", target="a100-40gb").path.name
    refused(store, "MissingExtraError", 9, ("tensorrt", ".[tensorrt]"), "build", bundle)


def test_a_damaged_bundle_is_refused_before_tensorrt_is_looked_for(chain: Chain, store: Path) -> None:
    bundle = chain.artifact("build", target="a100-40gb")
    flip(bundle, store, "model.fp16.onnx")
    refused(store, "TamperedArtifactError", 5, ("model.fp16.onnx",), "build", store / "artifacts" / bundle.path.name)


def test_samples_are_real_images(chain: Chain) -> None:
    """The stored samples are what the loader gives for the first test images, so a device can check itself."""
    from safetensors.numpy import load

    from gpusq.stages.images import loader_of

    onnx = chain.artifact("export")
    stored = load(onnx.read("samples.safetensors"))["pixel_values"]
    data = chain.context(None).images("test").test  # type: ignore[arg-type]
    expected = loader_of(data, onnx.read_json("model.json")).batch(range(len(stored))).pixel_values
    assert np.array_equal(stored, expected)
