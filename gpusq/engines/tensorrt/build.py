"""ONNX to plan, one path for TensorRT 10.3, 10.16, 11.x and TensorRT-RTX.

The precision is in the graph: FP16 with INT8 Q/DQ, typed strongly. What was built is read back from the engine
(`inspector`, `receipt`), since a builder may ignore what it does not know and still succeed (roboflow/rf-detr#1453).
Full TensorRT has not been run by this project yet: its names are checked against tensorrt-lean 11.4 and
TensorRT-RTX 1.7, and the same code builds with the latter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from gpusq.engines.tensorrt.callbacks import Callbacks, make_log, make_monitor
from gpusq.engines.tensorrt.features import Features
from gpusq.engines.tensorrt.inspector import inspect_plan
from gpusq.engines.tensorrt.log import parse_log
from gpusq.engines.tensorrt.memory import PeakMemory
from gpusq.engines.tensorrt.plan import BuildProgress, BuiltPlan, Memory, PlanOptions
from gpusq.engines.tensorrt.refusals import build_refusal, host_memory_refusal, parse_refusal
from gpusq.errors import EngineError, UsageError

MIB = 1 << 20
LARGEST_WARNINGS = 200
"""Kept of a build: one that is short of memory warns at every tactic."""


def build_plan(
    trt: Any,
    onnx: bytes,
    options: PlanOptions,
    *,
    progress: Callable[[BuildProgress], None] | None = None,
    on_message: Callable[[str], object] | None = None,
) -> BuiltPlan:
    """Parse `onnx` and build it with the library `trt` (see `load_library`).

    progress is called for every step, on_message gets each message of the log that is kept, as it comes; what they
    raise stops the build and comes out here. Raises UnsupportedNodeError (node, operator, layer), BuildMemoryError,
    EngineError with the library's message, UsageError for options that this library does not have.
    """
    features = Features.of(trt)
    _check(features, options, trt)
    with PeakMemory() as memory:
        callbacks = Callbacks(progress, memory)
        log = make_log(trt, callbacks, from_log=not features.progress_monitor, on_message=on_message)
        try:
            plan, cache = _build(trt, features, onnx, options, log, callbacks)
        except MemoryError as error:
            raise host_memory_refusal(trt.__name__, str(error) or "MemoryError", memory.peak_mib) from error
        if callbacks.raised is not None:  # the caller stopped the build
            raise callbacks.raised
        if plan is None:
            raise build_refusal(log.messages, log.errors, trt.__name__, memory.sample())
        seconds = memory.elapsed_s
    return _built(trt, features, onnx, options, log, plan, cache, seconds, memory.peak_mib)


def _check(features: Features, options: PlanOptions, trt: Any) -> None:
    """Options that the library lacks are refused, not dropped."""
    missing = []
    if options.compute_capabilities and not features.compute_capabilities:
        missing.append("compute capabilities")
    if options.sparse and not features.sparse_weights:
        missing.append("SPARSE_WEIGHTS")
    if options.timing_cache is not None and (not features.timing_cache or options.compute_capabilities):
        missing.append("a timing cache ahead of time" if options.compute_capabilities else "a timing cache")
    if options.hardware_compatibility and not features.hardware_compatibility:
        missing.append("hardware compatibility")
    if missing:
        raise UsageError(
            f"{trt.__name__} {trt.__version__} must offer what is asked for", got=", ".join(missing), do="leave it out"
        )


def _build(
    trt: Any, features: Features, onnx: bytes, options: PlanOptions, log: Any, callbacks: Callbacks
) -> tuple[bytes | None, bytes | None]:
    """(plan, timing cache); the plan is None where the builder failed."""
    builder = trt.Builder(log)
    network = builder.create_network(_network_flags(trt, features))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(onnx):
        raise parse_refusal(parser, log.messages, trt.__name__)
    config = _config(trt, features, builder, options)
    monitor = make_monitor(trt, features, callbacks)
    if monitor is not None:
        config.progress_monitor = monitor
    cache = _attach_cache(features, config, options)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return None, None
    return bytes(plan), bytes(cache.serialize()) if cache is not None else None


def _network_flags(trt: Any, features: Features) -> int:
    # TensorRT 11 knows no other typing and may drop the flag; 10.x needs it
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if features.typed_flag else 0


def _config(trt: Any, features: Features, builder: Any, options: PlanOptions) -> Any:
    config = builder.create_builder_config()
    if options.sparse:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if features.profiling_verbosity:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # tactic names: the proof of sparse kernels
    if features.memory_pools and options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * MIB)
    if options.hardware_compatibility:
        levels = trt.HardwareCompatibilityLevel
        config.hardware_compatibility_level = _member(levels, options.hardware_compatibility)
    if options.compute_capabilities:
        config.num_compute_capabilities = len(options.compute_capabilities)
        for index, capability in enumerate(options.compute_capabilities):
            name = "SM" + capability.replace(".", "")
            config.set_compute_capability(_member(trt.ComputeCapability, name), index)
    for shapes in options.profiles:
        profile = builder.create_optimization_profile()
        for name, three in shapes.items():
            profile.set_shape(name, *three)
        if config.add_optimization_profile(profile) == -1:
            raise UsageError("the optimization profile fits the inputs", got=str(dict(shapes)), do="mend the profile")
    return config


def _member(enum: Any, name: str) -> Any:
    found = getattr(enum, name, None)
    if found is None:
        known = sorted(n for n in dir(enum) if n.isupper())
        raise UsageError(f"the library knows {', '.join(known)}", got=name, do="choose one of these")
    return found


def _attach_cache(features: Features, config: Any, options: PlanOptions) -> Any:
    """A timing cache, filled or new; none ahead of time, where it would ask for a GPU."""
    if not features.timing_cache or options.compute_capabilities:
        return None
    cache = config.create_timing_cache(options.timing_cache or b"")
    if cache is None or not config.set_timing_cache(cache, False):  # False: not from another device
        raise EngineError(
            "the timing cache must be of this device and this TensorRT",
            got="one that the library refuses",
            do="build once without it; the build writes a new one",
        )
    return cache


def _built(
    trt: Any,
    features: Features,
    onnx: bytes,
    options: PlanOptions,
    log: Any,
    plan: bytes,
    cache: bytes | None,
    seconds: float,
    peak_mib: float,
) -> BuiltPlan:
    facts = parse_log(log.messages)
    warnings = list(dict.fromkeys(log.warnings))[:LARGEST_WARNINGS]
    inspected = None
    if features.engine_inspector and not options.compute_capabilities:
        inspected, problem = inspect_plan(trt, plan, log, options.profiles[0] if options.profiles else {})
        warnings += [problem] if problem else []
    return BuiltPlan(
        plan=plan,
        library=trt.__name__,
        version=str(trt.__version__),
        onnx_sha256=hashlib.sha256(onnx).hexdigest(),
        sparse=options.sparse,
        compute_capabilities=options.compute_capabilities,
        messages=tuple(log.messages),
        layer_dump=log.dump,
        inspector_json=inspected,
        timing_cache=cache,
        timing_cache_in_sha256=hashlib.sha256(options.timing_cache).hexdigest() if options.timing_cache else None,
        seconds=seconds,
        memory=Memory(peak_mib, facts.device_mib, facts.weights_mib, facts.activations_mib),
        warnings=tuple(warnings),
    )
