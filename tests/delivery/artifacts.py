"""Sealed engines and bundles, made by hand: a server's package needs their facts, not a working plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from gpusq.artifacts import Artifact, Store, artifact_key
from gpusq.artifacts.manifest import Parent

IMAGE, CLASSES = (3, 32, 48), ("T-shirt/top", "Trouser \u00e9", "Bag")
PLACE = {
    "builder": "tensorrt",
    "library": "10.16.1.11",
    "capabilities": ["8.0"],
    "platform": "x86_64",
    "plugins": [],
}


def description(std: tuple[float, ...] = (0.5, 0.5, 0.5), **changes: Any) -> dict[str, Any]:
    """model.json with what a package reads."""
    plain = {"classes": list(CLASSES), "mean": [0.5, 0.4, 0.3], "std": list(std), "resize": "bilinear"}
    return {**plain, "input_shape": list(IMAGE), **changes}


def samples(image: tuple[int, ...] = IMAGE, **outputs: tuple[int, ...]) -> bytes:
    """samples.safetensors for two images; outputs: name to dims."""
    shapes = {"pixel_values": image, **(outputs or {"logits": (len(CLASSES),)})}
    return save({name: np.zeros((2, *dims), np.float32) for name, dims in shapes.items()})


def sealed(
    root: Path, kind: str, files: dict[str, bytes], parent: Artifact | None = None, target: str = "a100"
) -> Artifact:
    """Publish `files` as an artifact."""
    described: dict[str, Any] = {
        "stage": "build",
        "stage_version": 1,
        "params": {},
        "parents": (Parent(role="model", kind=parent.manifest.kind, key=parent.key, digest=parent.digest),)
        if parent
        else (),
        "inputs": {name: str(len(data)) for name, data in files.items()},
        "target": target,
        "toolchain": {},
    }
    key = artifact_key(**described)
    store = Store(root)
    with store.lock(), store.staging(key) as staging:
        for name, data in files.items():
            (staging / name).write_bytes(data)
        return store.publish(staging, kind=kind, facts={}, key=key, **described)


def device_engine(root: Path, std: tuple[float, ...] = (0.5, 0.5, 0.5), **changes: Any) -> Artifact:
    """A TensorRT engine as the device seals it, with a plan that is none."""
    facts = {"place": PLACE, "profile": {"minimum": 1, "optimum": 8, "maximum": 32}, "runtime": "tensorrt 10.16.1.11"}
    files = {
        "engine.plan": b"ftrt not a plan",
        "engine.json": json.dumps({**facts, **changes}).encode(),
        "model.json": json.dumps(description(std)).encode(),
        "samples.safetensors": samples(),
    }
    return sealed(root, "engine", files)


def bundle(root: Path, std: tuple[float, ...] = (0.5, 0.5, 0.5)) -> Artifact:
    """A bundle with graphs that are none."""
    files = {
        "model.fp16.onnx": b"fp16",
        "model.fp32.onnx": b"fp32",
        "model.json": json.dumps(description(std)).encode(),
        "samples.safetensors": samples(),
        "bundle.json": json.dumps({"profile": {"minimum": 1, "optimum": 4, "maximum": 16}}).encode(),
    }
    return sealed(root, "bundle", files)


def cpu_engine(root: Path, runtime: str) -> Artifact:
    """A CPU engine with graphs that are none."""
    names = {"onnxruntime": ("model.onnx",), "openvino": ("engine.xml", "engine.bin")}[runtime]
    files = {name: name.encode() for name in names} | {
        "engine.json": json.dumps({"runtime": runtime, "target": "cpu"}).encode(),
        "model.json": json.dumps(description()).encode(),
        "samples.safetensors": samples(),
    }
    return sealed(root, "engine", files, target="cpu")
