"""A provider that did not start is refused, whatever the library says is available."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusq.engines.onnxruntime_gpu import PROVIDERS, load_gpu
from gpusq.errors import EngineError, UsageError


def stand_in(running: list[str], *, available: tuple[str, ...] = tuple(PROVIDERS.values())) -> types.ModuleType:
    """An onnxruntime whose sessions run on `running`; the arguments of the session are in `seen`."""
    ort = types.ModuleType("onnxruntime")
    seen: dict[str, Any] = {}

    class Options:
        log_severity_level = 0

        def add_session_config_entry(self, key: str, value: str) -> None:
            seen[key] = value

    class Session:
        def __init__(self, model: bytes, options: Options, providers: list[Any]) -> None:
            seen["providers"] = providers

        def get_providers(self) -> list[str]:
            return running

        def get_inputs(self) -> list[Any]:
            return [types.SimpleNamespace(name="pixel_values", shape=["batch", 3, 4, 4])]

        def get_outputs(self) -> list[Any]:
            return [types.SimpleNamespace(name="logits")]

        def run(self, names: Any, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [feeds["pixel_values"].sum((2, 3))]

    for name, value in {
        "SessionOptions": Options,
        "InferenceSession": Session,
        "get_available_providers": lambda: [*available, "CPUExecutionProvider"],
        "seen": seen,
        "__version__": "1.99",
    }.items():
        setattr(ort, name, value)
    return ort


def test_the_installed_build_for_the_cpu_is_refused(fp32_model: bytes) -> None:
    ort = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("the GPU build is installed here")
    with pytest.raises(EngineError, match=r"a build for the CPU.*pip install onnxruntime-gpu"):
        load_gpu(fp32_model, "cuda")


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
@pytest.mark.parametrize("running", [["CPUExecutionProvider"], []])
def test_a_silent_fall_back_is_refused(monkeypatch: pytest.MonkeyPatch, provider: Any, running: list[str]) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", stand_in(running))
    with pytest.raises(EngineError, match="fell back"):
        load_gpu(b"model", provider)


def test_tensorrt_that_became_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", stand_in(["CUDAExecutionProvider", "CPUExecutionProvider"]))
    with pytest.raises(EngineError, match="must run on TensorrtExecutionProvider"):
        load_gpu(b"model", "tensorrt")


def test_a_session_on_the_gpu_runs(monkeypatch: pytest.MonkeyPatch, images: np.ndarray, tmp_path: Path) -> None:
    ort = stand_in([PROVIDERS["tensorrt"], PROVIDERS["cuda"], "CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "onnxruntime", ort)
    runner = load_gpu(b"model", "tensorrt", device=1, cache=tmp_path, allow_cpu_nodes=False)
    assert runner.name == "onnxruntime-tensorrt"
    assert runner.providers[0] == "TensorrtExecutionProvider"
    assert runner.run(images).shape == (6, 3)
    (first, own), (second, _) = ort.seen["providers"]
    assert (first, second) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert (own["device_id"], own["trt_engine_cache_path"]) == (1, str(tmp_path))
    assert ort.seen["session.disable_cpu_ep_fallback"] == "1"


def test_another_provider_or_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="cuda, tensorrt"):
        load_gpu(b"model", "rocm")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match="no onnxruntime"):
        load_gpu(b"model", "cuda")
