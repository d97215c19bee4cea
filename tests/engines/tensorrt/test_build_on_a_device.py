"""What only a build on a device does: timing cache, inspector, memory of the device. The library is a stand-in.

It has the names of TensorRT 10.3 that `test_library_names` checks in the real ones, and nothing else.
"""

from __future__ import annotations

import hashlib
import types
from typing import Any

import pytest

from gpusq.engines.tensorrt import BuildProgress, Features, PlanOptions, build_plan, layers_of
from gpusq.errors import BuildMemoryError, EngineError, UsageError
from tests.engines.recordings import text

SHAPES = {"x": ((1, 3), (8, 3), (32, 3))}
INSPECTED = text("trt10_sparse_chosen.json")


class StandIn(types.SimpleNamespace):
    """One library; the calls that reached it are in `seen`."""

    __name__ = "tensorrt"
    __version__ = "10.3.0.30"


def stand_in(
    *,
    messages: tuple[tuple[str, str], ...] = (),
    plan: bytes | None = b"the plan",
    loads: bool = True,
    context: bool = True,
    takes_cache: bool = True,
    monitor: bool = True,
    raises: Exception | None = None,
) -> StandIn:
    """A library whose builder logs `messages` (severity, text) and then gives `plan`."""
    seen: dict[str, Any] = {}
    severities = {name: name for name in ("VERBOSE", "INFO", "WARNING", "ERROR", "INTERNAL_ERROR")}
    logger = type("ILogger", (), {"__init__": lambda self: None, **severities})

    class Cache:
        def serialize(self) -> bytes:
            return b"cache after"

    class Config:
        progress_monitor: Any = None

        def set_flag(self, flag: str) -> None:
            seen.setdefault("flags", []).append(flag)

        def set_memory_pool_limit(self, pool: str, size: int) -> None:
            seen["workspace"] = size

        def create_timing_cache(self, data: bytes) -> Cache:
            seen["cache"] = data
            return Cache()

        def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
            seen["ignore_mismatch"] = ignore_mismatch
            return takes_cache

        def add_optimization_profile(self, profile: Any) -> int:
            return 0

    class Builder:
        def __init__(self, log: Any) -> None:
            self.log = log

        def create_network(self, flags: int) -> int:
            seen["network"] = flags
            return flags

        def create_builder_config(self) -> Config:
            seen["config"] = Config()
            return seen["config"]

        def create_optimization_profile(self) -> Any:
            return types.SimpleNamespace(set_shape=lambda name, *shapes: seen.update({name: shapes}))

        def build_serialized_network(self, network: int, config: Config) -> bytearray | None:
            if config.progress_monitor is not None:
                config.progress_monitor.phase_start("Building engine", None, 2)
                config.progress_monitor.step_complete("Building engine", 1)
                config.progress_monitor.phase_finish("Building engine")
            for severity, message in messages:
                self.log.log(severity, message)
            if raises is not None:
                raise raises
            return None if plan is None else bytearray(plan)

    class Context:
        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            seen["inspected shape"] = (name, shape)
            return True

    inspector = types.SimpleNamespace(get_engine_information=lambda form: INSPECTED, execution_context=None)
    engine = types.SimpleNamespace(
        create_engine_inspector=lambda: inspector, create_execution_context=lambda: Context() if context else None
    )

    def deserialize(data: bytes) -> Any:
        seen["loaded"] = data
        return engine if loads else None

    names = types.SimpleNamespace
    library = StandIn(
        ILogger=logger,
        Builder=Builder,
        OnnxParser=lambda network, log: names(parse=lambda data: True, num_errors=0),
        ParserError=names(node_name=0),
        IBuilderConfig=Config,
        NetworkDefinitionCreationFlag=names(STRONGLY_TYPED=1),
        BuilderFlag=names(SPARSE_WEIGHTS="sparse"),
        MemoryPoolType=names(WORKSPACE="workspace"),
        ProfilingVerbosity=names(DETAILED="detailed"),
        HardwareCompatibilityLevel=names(AMPERE_PLUS="ampere"),
        EngineInspector=object,
        LayerInformationFormat=names(JSON="json"),
        Runtime=lambda log: names(deserialize_cuda_engine=deserialize),
        seen=seen,
    )
    if monitor:
        library.IProgressMonitor = type("IProgressMonitor", (), {})
    return library


def test_a_build_on_the_device_is_inspected_and_its_cache_kept() -> None:
    trt = stand_in(messages=(("INFO", text("trt10_sparse_chosen.log")),))
    built = build_plan(trt, b"onnx", PlanOptions((SHAPES,), workspace_mib=3, timing_cache=b"cache before"))
    assert trt.seen["network"] == 2
    assert trt.seen["flags"] == ["sparse"]
    assert trt.seen["workspace"] == 3 << 20
    assert trt.seen["config"].profiling_verbosity == "detailed"
    assert (trt.seen["cache"], trt.seen["ignore_mismatch"]) == (b"cache before", False)
    assert built.timing_cache == b"cache after"
    assert built.timing_cache_sha256 == hashlib.sha256(b"cache after").hexdigest()
    assert built.timing_cache_in_sha256 == hashlib.sha256(b"cache before").hexdigest()
    assert trt.seen["loaded"] == built.plan == b"the plan"
    assert trt.seen["inspected shape"] == ("x", (8, 3))
    assert len(layers_of(built).layers) == 8
    assert (built.memory.device_mib, built.warnings) == (131.0, ())


@pytest.mark.parametrize(
    ("changes", "warning"),
    [({"loads": False}, "could not be loaded"), ({"context": False}, "no execution context")],
)
def test_an_inspection_that_fails_is_a_warning(changes: dict[str, bool], warning: str) -> None:
    built = build_plan(stand_in(**changes), b"onnx", PlanOptions((SHAPES,)))  # type: ignore[arg-type]
    assert any(warning in line for line in built.warnings)
    assert (built.inspector_json is None) is ("loads" in changes)


def test_a_timing_cache_of_another_device_is_refused() -> None:
    with pytest.raises(EngineError, match="timing cache"):
        build_plan(stand_in(takes_cache=False), b"onnx", PlanOptions((SHAPES,), timing_cache=b"other"))


def test_ahead_of_time_needs_a_library_that_can() -> None:
    with pytest.raises(UsageError, match="compute capabilities"):
        build_plan(stand_in(), b"onnx", PlanOptions(compute_capabilities=("8.0",)))


@pytest.mark.parametrize("monitor", [True, False])
def test_progress_with_and_without_a_monitor(monitor: bool) -> None:
    steps: list[BuildProgress] = []
    trt = stand_in(monitor=monitor, messages=(("INFO", "Engine generation started.\nmore"), ("VERBOSE", "noise")))
    assert Features.of(trt).progress_monitor is monitor
    build_plan(trt, b"onnx", PlanOptions((SHAPES,)), progress=steps.append)
    found = [(step.phase, step.step, step.steps) for step in steps]
    with_monitor = [("Building engine", 0, 2), ("Building engine", 2, 2)]
    assert found == (with_monitor if monitor else [("Engine generation started.", 0, 0)])


def test_memory_of_the_device_that_runs_out() -> None:
    messages = tuple(("ERROR", line) for line in text("trt10_device_out_of_memory.log").splitlines())
    with pytest.raises(BuildMemoryError, match=r"memory of the device.*15485030400 bytes"):
        build_plan(stand_in(plan=None, messages=messages), b"onnx", PlanOptions((SHAPES,)))


def test_memory_of_the_host_that_runs_out() -> None:
    with pytest.raises(BuildMemoryError, match=r"memory of this machine.*std::bad_alloc; the process held \d+ MiB"):
        build_plan(stand_in(raises=MemoryError("std::bad_alloc")), b"onnx", PlanOptions((SHAPES,)))


def test_a_tactic_that_was_skipped_for_memory_is_a_warning_of_a_build_that_succeeds() -> None:
    line = "Skipping tactic 3 due to insufficient memory on requested size of 68719476736 detected"
    built = build_plan(stand_in(messages=(("WARNING", line),)), b"onnx", PlanOptions((SHAPES,)))
    assert built.warnings == (line,)


def test_a_log_of_a_million_lines_keeps_its_beginning_and_its_end() -> None:
    messages = (("INFO", "first"), *(("INFO", f"line {i}") for i in range(21_000)), ("INFO", "last"))
    built = build_plan(stand_in(messages=messages), b"onnx", PlanOptions((SHAPES,)))
    assert len(built.messages) == 20_000
    assert (built.messages[0], built.messages[-1]) == ("first", "last")
