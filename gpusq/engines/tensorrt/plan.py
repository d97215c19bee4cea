"""What goes into a build and what comes out of it: plain data, no library."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from gpusq.errors import UsageError

Shapes: TypeAlias = "tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]"
"""(min, opt, max)."""
Profile: TypeAlias = "Mapping[str, Shapes]"


@dataclass(frozen=True)
class PlanOptions:
    """How to build.

    profiles: optimization profiles, each {input name: (min, opt, max) shapes}; none for a static graph.
    workspace_mib: largest scratch memory of a tactic; None leaves the library's own limit (all of the device).
    sparse: let the builder choose 2:4 kernels. timing_cache: what an earlier build gave, for the same device only.
    compute_capabilities: ("8.0",) builds ahead of time for these without a GPU (TensorRT-RTX); empty: this device.
    hardware_compatibility: name of the level, e.g. "SAME_COMPUTE_CAPABILITY"; None: this device only.
    """

    profiles: tuple[Profile, ...] = ()
    workspace_mib: int | None = None
    sparse: bool = True
    timing_cache: bytes | None = None
    compute_capabilities: tuple[str, ...] = ()
    hardware_compatibility: str | None = None

    def __post_init__(self) -> None:
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UsageError("the workspace must be at least 1 MiB", got=str(self.workspace_mib), do="raise it")
        for profile in self.profiles:
            for name, shapes in profile.items():
                _check_shapes(name, shapes)


@dataclass(frozen=True)
class BuildProgress:
    """One step of a build. phase: the library's own words; step of steps, steps 0 where it counts none."""

    phase: str
    step: int
    steps: int
    elapsed_s: float
    host_mib: float


@dataclass(frozen=True)
class Memory:
    """Peaks of a build in MiB; None where nothing reported it.

    host_mib: resident memory of the process. device_mib: what the library's own allocators took.
    weights_mib, activations_mib: what the finished engine holds and needs.
    """

    host_mib: float
    device_mib: float | None = None
    weights_mib: float | None = None
    activations_mib: float | None = None


@dataclass(frozen=True)
class BuiltPlan:
    """A built plan and everything the library said about it.

    library, version: "tensorrt" or "tensorrt_rtx" and its version. compute_capabilities: as asked; empty: this device.
    messages: the log without the per-tactic noise. layer_dump: the "Layers:" message, "" where there was none.
    inspector_json: EngineInspector's report, None where the plan could not be loaded here.
    timing_cache: to hand to the next build on this device. warnings: what went wrong without stopping the build.
    """

    plan: bytes
    library: str
    version: str
    onnx_sha256: str
    sparse: bool
    compute_capabilities: tuple[str, ...]
    messages: tuple[str, ...]
    layer_dump: str
    inspector_json: str | None
    timing_cache: bytes | None
    timing_cache_in_sha256: str | None
    seconds: float
    memory: Memory
    warnings: tuple[str, ...] = ()

    @property
    def plan_sha256(self) -> str:
        """sha256 hex of the plan."""
        return hashlib.sha256(self.plan).hexdigest()

    @property
    def timing_cache_sha256(self) -> str | None:
        """sha256 hex of the timing cache, None without one."""
        return None if self.timing_cache is None else hashlib.sha256(self.timing_cache).hexdigest()


def _check_shapes(name: str, shapes: Shapes) -> None:
    ranks = {len(shape) for shape in shapes}
    ordered = len(ranks) == 1 and all(1 <= low <= best <= high for low, best, high in zip(*shapes, strict=True))
    if len(shapes) != 3 or not ordered:
        raise UsageError(
            f"the profile of {name} is (min, opt, max) shapes of one rank with 1 <= min <= opt <= max",
            got=str(shapes),
            do="mend the profile",
        )
