"""One verified bundle through the builder: what it is built for, and what the library said."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gpusq.engines.bundle import FP16, Bundle
from gpusq.errors import EngineError
from gpusq.finishing.opened import Progress
from gpusq.machine import AHEAD_OF_TIME

if TYPE_CHECKING:
    from gpusq.engines.cuda import Device
    from gpusq.engines.tensorrt import BuildProgress, BuiltPlan


@dataclass(frozen=True)
class BuiltFor:
    """Compute capabilities that a plan is for; stand_in: why these are not the target's own, empty where they are.

    ahead: whether the library is told the capabilities; else it builds for the device at hand.
    """

    capabilities: tuple[str, ...]
    stand_in: str = ""
    ahead: bool = False


def built_for(bundle: Bundle, builder: str, trt: Any, device: Device | None) -> BuiltFor:
    """What to build for. Raises EngineError where TensorRT has no device, or one of another compute capability."""
    wanted = str(bundle.target.get("compute_capability"))
    title = str(bundle.target.get("title", bundle.target.get("name")))
    if builder == AHEAD_OF_TIME:
        return _ahead_of_time(bundle, trt, wanted, title)
    if device is None:
        raise EngineError(
            f"TensorRT builds on the device itself: {title}, compute capability {wanted}",
            got="no GPU that CUDA can use here",
            do="run the command on the device, or build a stand-in here with --builder tensorrt-rtx",
        )
    if device.capability != wanted:
        raise EngineError(
            f"the bundle is for {title}, compute capability {wanted}",
            got=f"{device.name}, compute capability {device.capability}",
            do="finish it on its target, or compress for this device",
        )
    return BuiltFor((wanted,))


def _ahead_of_time(bundle: Bundle, trt: Any, wanted: str, title: str) -> BuiltFor:
    """The target's own capability where the library offers it, else the nearest one that the target file names."""
    offered = [name for name in dir(trt.ComputeCapability) if name.startswith("SM")]
    if _enum_name(wanted) in offered:
        return BuiltFor((wanted,), ahead=True)
    named = [_capability(name) for name in bundle.target.get("rtx_capability", ()) if name.upper() in offered]
    if not named:
        raise EngineError(
            f"{trt.__name__} must offer a compute capability for {title}", got=", ".join(offered), do="use TensorRT"
        )
    reason = (
        f"a stand-in for compute capability {named[-1]}: {title} has {wanted}, which TensorRT-RTX {trt.__version__} "
        f"does not build for; this is not an engine of {bundle.target.get('name')}"
    )
    return BuiltFor((named[-1],), reason, ahead=True)


def _enum_name(capability: str) -> str:
    """ "8.0" -> "SM80"."""
    return "SM" + capability.replace(".", "")


def _capability(name: str) -> str:
    """ "sm86" -> "8.6"."""
    return f"{name[2:-1]}.{name[-1]}"


def build_bundle(
    bundle: Bundle,
    trt: Any,
    purpose: BuiltFor,
    *,
    workspace_mib: int | None,
    timing_cache: bytes | None,
    progress: Progress,
    what: str,
) -> BuiltPlan:
    """Build the bundle's FP16 graph from memory. Raises EngineError with node, operator and layer where it can."""
    from gpusq.engines.tensorrt import PlanOptions, build_plan

    shapes = bundle.profile.shapes(bundle.input_shape)
    options = PlanOptions(
        profiles=({bundle.input_name: shapes},),
        workspace_mib=workspace_mib,
        timing_cache=timing_cache,
        compute_capabilities=purpose.capabilities if purpose.ahead else (),
    )

    def report(step: BuildProgress) -> None:
        memory = f"{step.elapsed_s:.0f} s, {step.host_mib:.0f} MiB"
        progress(f"build {what}", step.step, step.steps or None, f"{step.phase} ({memory})")

    return build_plan(trt, bundle.files[FP16], options, progress=report)


def build_facts(built: BuiltPlan) -> dict[str, Any]:
    """What the library said of the build, as plain data: versions, time, memory, timing cache, warnings."""
    return {
        "library": built.library,
        "version": built.version,
        "seconds": round(built.seconds, 3),
        "memory_mib": asdict(built.memory),
        "sparse_weights_allowed": built.sparse,
        "timing_cache_in_sha256": built.timing_cache_in_sha256,
        "timing_cache_sha256": built.timing_cache_sha256,
        "warnings": list(built.warnings[:20]),
    }
