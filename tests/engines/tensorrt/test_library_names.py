"""Every name that the builder and the runner use of TensorRT exists in the real libraries.

tensorrt-lean is TensorRT 11.4 without the builder, the parser and the inspector; it installs and imports without a GPU.
TensorRT-RTX has all of them. What neither shows, the signatures of TensorRT 10.3 and 10.16, is not tested here.
"""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from gpusq.engines.tensorrt import Features, load_library, make_profiler
from gpusq.errors import MissingExtraError, UsageError

ENGINES = Path(__file__).parents[3] / "gpusq" / "engines"
USERS = [*sorted((ENGINES / "tensorrt").glob("*.py")), *sorted(ENGINES.glob("device_*.py"))]
NOT_IN_LEAN = {
    "Builder",
    "OnnxParser",
    "NetworkDefinitionCreationFlag",
    "IBuilderConfig",
    "ParserError",
    "EngineInspector",
    "ComputeCapability",
}
"""The builder's side, which the lean package leaves out; ComputeCapability is TensorRT-RTX's own."""
NOT_IN_RTX: set[str] = set()
METHODS = {
    "Builder": ["create_network", "create_builder_config", "create_optimization_profile", "build_serialized_network"],
    "IBuilderConfig": [
        "set_flag",
        "profiling_verbosity",
        "set_memory_pool_limit",
        "hardware_compatibility_level",
        "num_compute_capabilities",
        "set_compute_capability",
        "add_optimization_profile",
        "create_timing_cache",
        "set_timing_cache",
        "progress_monitor",
    ],
    "OnnxParser": ["parse", "num_errors", "get_error"],
    "ParserError": ["desc", "node_name", "node_operator"],
    "EngineInspector": ["get_engine_information", "execution_context"],
    "Runtime": ["deserialize_cuda_engine"],
    "ICudaEngine": [
        "create_engine_inspector",
        "create_execution_context",
        "num_io_tensors",
        "get_tensor_name",
        "get_tensor_mode",
        "get_tensor_shape",
        "get_tensor_dtype",
        "get_tensor_profile_shape",
    ],
    "IExecutionContext": [
        "set_input_shape",
        "set_tensor_address",
        "execute_async_v3",
        "set_optimization_profile_async",
        "get_tensor_shape",
        "profiler",
    ],
    "IOptimizationProfile": ["set_shape"],
    "IProgressMonitor": ["phase_start", "step_complete", "phase_finish"],
    "IProfiler": ["report_layer_time"],
    "ITimingCache": ["serialize"],
    "ILogger": ["log"],
}


@pytest.fixture(scope="module", params=["tensorrt_lean", "tensorrt_rtx"])
def library(request: pytest.FixtureRequest) -> ModuleType:
    return pytest.importorskip(request.param, reason="installed by the dev and rtx extras")


def lacking(library: ModuleType) -> set[str]:
    return NOT_IN_LEAN if library.__name__ == "tensorrt_lean" else NOT_IN_RTX


def used_names() -> set[tuple[str, str]]:
    """(class or enum, member or "") for every `trt.Name` and `trt.Name.member` in the sources."""
    found: set[tuple[str, str]] = set()
    for path in USERS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "trt":
                found.add((node.attr, ""))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
                owner = node.value
                if isinstance(owner.value, ast.Name) and owner.value.id == "trt":
                    found.add((owner.attr, node.attr))
    return {(name, member) for name, member in found if not name.startswith("_")}


def test_the_sources_use_the_library() -> None:
    names = {name for name, _ in used_names()}
    assert {"Builder", "OnnxParser", "BuilderFlag", "Runtime", "IProgressMonitor", "ProfilingVerbosity"} <= names
    assert ("BuilderFlag", "SPARSE_WEIGHTS") in used_names()


def test_every_name_is_in_the_library(library: ModuleType) -> None:
    for name, member in sorted(used_names()):
        if name in lacking(library):
            assert not hasattr(library, name), f"{library.__name__} has {name} now: test it"
            continue
        assert hasattr(library, name), f"{library.__name__}.{name}"
        assert not member or hasattr(getattr(library, name), member), f"{library.__name__}.{name}.{member}"


def test_every_method_is_in_the_library(library: ModuleType) -> None:
    for name, members in METHODS.items():
        if name not in lacking(library):
            missing = [member for member in members if not hasattr(getattr(library, name), member)]
            assert missing == [], f"{library.__name__}.{name}"


def test_what_lean_lacks_the_other_library_has() -> None:
    rtx = pytest.importorskip("tensorrt_rtx")
    for name in NOT_IN_LEAN:
        assert hasattr(rtx, name), name


def test_features_are_seen_in_the_real_libraries() -> None:
    lean, rtx = pytest.importorskip("tensorrt_lean"), pytest.importorskip("tensorrt_rtx")
    here = Features.of(rtx)
    assert all(vars(here).values()), here
    there = Features.of(lean)
    assert there.sparse_weights
    assert there.progress_monitor
    assert there.memory_pools
    assert there.profiling_verbosity
    assert there.hardware_compatibility
    assert not there.timing_cache
    assert not there.compute_capabilities


def test_removed_flags_are_not_used() -> None:
    """TensorRT 11 has no precision flags; setting them fails or, worse, does nothing."""
    lean = pytest.importorskip("tensorrt_lean")
    members = {member for name, member in used_names() if name == "BuilderFlag"}
    for flag in ("FP16", "INT8", "BF16", "OBEY_PRECISION_CONSTRAINTS"):
        assert not hasattr(lean.BuilderFlag, flag)
        assert flag not in members


def test_a_profiler_takes_the_median_of_its_runs(library: ModuleType) -> None:
    profiler = make_profiler(library)
    assert isinstance(profiler, library.IProfiler)
    for ms in (3.0, 1.0, 2.0):
        profiler.report_layer_time("a", ms)
    assert profiler.times_us() == {"a": 2000.0}


@pytest.mark.parametrize(("builder", "extra"), [("tensorrt", "tensorrt"), ("tensorrt-rtx", "rtx")])
def test_an_absent_library_is_a_missing_extra(monkeypatch: pytest.MonkeyPatch, builder: str, extra: str) -> None:
    def absent(name: str) -> ModuleType:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingExtraError, match=rf"\.\[{extra}\]"):
        load_library(builder)


def test_on_a_jetson_tensorrt_comes_with_jetpack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(MissingExtraError, match="JetPack"):
        load_library("tensorrt")


def test_another_builder_is_refused() -> None:
    with pytest.raises(UsageError, match="tensorrt, tensorrt-rtx"):
        load_library("onnx")
