"""What a package is made of: read only from a whole artifact, with limits that the engine really has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpusq.delivery import contents_of
from gpusq.errors import StageOrderError, TamperedArtifactError, UsageError
from tests.delivery import artifacts


def test_a_device_engine(tmp_path: Path) -> None:
    found = contents_of(artifacts.device_engine(tmp_path))
    assert (found.runtime, found.max_batch, found.best_batch) == ("tensorrt", 32, 8)
    assert (found.image.name, found.image.dims) == ("pixel_values", artifacts.IMAGE)
    assert [(t.name, t.dims) for t in found.outputs] == [("logits", (3,))]
    assert found.place == "tensorrt 10.16.1.11, compute capability 8.0, x86_64"
    assert found.files == {"engine.plan": b"ftrt not a plan"}


def test_logits_come_first(tmp_path: Path) -> None:
    files = {
        "engine.plan": b"plan",
        "engine.json": json.dumps({"place": artifacts.PLACE, "profile": {"maximum": 4}}).encode(),
        "model.json": json.dumps(artifacts.description()).encode(),
        "samples.safetensors": artifacts.samples(boxes=(10, 4), logits=(10, 3)),
    }
    assert [t.name for t in contents_of(artifacts.sealed(tmp_path, "engine", files)).outputs] == ["logits", "boxes"]


def test_cpu_engines_and_bundles(tmp_path: Path) -> None:
    assert set(contents_of(artifacts.cpu_engine(tmp_path / "a", "onnxruntime")).files) == {"model.onnx"}
    assert set(contents_of(artifacts.cpu_engine(tmp_path / "b", "openvino")).files) == {"engine.xml", "engine.bin"}
    found = contents_of(artifacts.bundle(tmp_path / "c"))
    assert (found.runtime, found.is_bundle, found.max_batch, found.files) == (
        "onnxruntime",
        True,
        16,
        {"model.fp32.onnx": b"fp32"},
    )


def test_the_largest_batch(tmp_path: Path) -> None:
    engine = artifacts.device_engine(tmp_path)
    assert contents_of(engine, max_batch=4).max_batch == 4
    assert contents_of(engine, max_batch=4).best_batch == 4
    with pytest.raises(UsageError, match="up to 32"):
        contents_of(engine, max_batch=64)
    silent = artifacts.device_engine(tmp_path / "silent", profile={})
    with pytest.raises(UsageError, match="--max-batch"):
        contents_of(silent)
    assert contents_of(silent, max_batch=2).max_batch == 2


@pytest.mark.parametrize("name", ["engine.plan", "model.json", "engine.json"])
def test_a_changed_artifact_is_refused_before_it_is_parsed(tmp_path: Path, name: str) -> None:
    engine = artifacts.device_engine(tmp_path)
    path = engine.path / name
    path.chmod(0o644)
    path.write_bytes(b"{" + path.read_bytes()[1:-1] + b"!")
    with pytest.raises(TamperedArtifactError, match=name):
        contents_of(engine)


def test_other_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StageOrderError, match="engine or a bundle"):
        contents_of(artifacts.sealed(tmp_path, "onnx", {"model.onnx": b"x"}))


def test_a_bundle_lends_what_an_engine_lacks_only_where_it_is_its_own(tmp_path: Path) -> None:
    own, other = artifacts.bundle(tmp_path / "own"), artifacts.bundle(tmp_path / "other", std=(0.2, 0.2, 0.2))
    files = {
        "engine.plan": b"plan",
        "engine.json": json.dumps({"place": artifacts.PLACE, "profile": {"maximum": 4}}).encode(),
    }
    engine = artifacts.sealed(tmp_path / "engine", "engine", files, parent=own)
    with pytest.raises(UsageError, match="--bundle"):
        contents_of(engine)
    assert contents_of(engine, bundle=own).classes == artifacts.CLASSES
    with pytest.raises(UsageError, match="made of"):
        contents_of(engine, bundle=other)
    with pytest.raises(StageOrderError):
        contents_of(engine, bundle=engine)


@pytest.mark.parametrize(
    "facts", [{"place": {**artifacts.PLACE, "builder": "tensorrt-rtx"}}, {"stand_in": "built for 8.6"}, {"place": None}]
)
def test_a_plan_that_no_server_loads_is_refused(tmp_path: Path, facts: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="TensorRT built for their target"):
        contents_of(artifacts.device_engine(tmp_path, **facts))
