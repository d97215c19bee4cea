"""What the library at hand can do, found by looking at it: version numbers say little across 10.3, 11 and RTX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Features:
    """Each field: whether the module has it (TensorRT 10.3 to 11.x, TensorRT-RTX)."""

    typed_flag: bool
    sparse_weights: bool
    progress_monitor: bool
    memory_pools: bool
    profiling_verbosity: bool
    timing_cache: bool
    compute_capabilities: bool
    hardware_compatibility: bool
    engine_inspector: bool
    parser_node_names: bool

    @classmethod
    def of(cls, trt: Any) -> Features:
        """Look at a module."""
        config = getattr(trt, "IBuilderConfig", None)
        return cls(
            typed_flag=_has(trt, "NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
            sparse_weights=_has(trt, "BuilderFlag", "SPARSE_WEIGHTS"),
            progress_monitor=hasattr(trt, "IProgressMonitor"),
            memory_pools=_has(trt, "MemoryPoolType", "WORKSPACE"),
            profiling_verbosity=_has(trt, "ProfilingVerbosity", "DETAILED"),
            timing_cache=hasattr(config, "create_timing_cache"),
            compute_capabilities=hasattr(trt, "ComputeCapability") and hasattr(config, "set_compute_capability"),
            hardware_compatibility=hasattr(trt, "HardwareCompatibilityLevel"),
            engine_inspector=hasattr(trt, "EngineInspector") and hasattr(trt, "LayerInformationFormat"),
            parser_node_names=_has(trt, "ParserError", "node_name"),
        )


def _has(module: Any, owner: str, name: str) -> bool:
    return hasattr(getattr(module, owner, None), name)
