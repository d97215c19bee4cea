"""Built plans on the device: outputs compared with the expected ones first, then all of them timed in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gpusq.finishing.gate import Gate, check_gate, gate_of

if TYPE_CHECKING:
    from gpusq.device_measurement import Measured
    from gpusq.engines.bundle import Bundle
    from gpusq.engines.device_engine import DeviceEngine
    from gpusq.finishing.engine_files import Built
    from gpusq.finishing.opened import FinishOptions
    from gpusq.machine import Gpu, Machine

BATCHES = (1, 8, 32)


@dataclass(frozen=True)
class Evidence:
    """What a run of one plan showed. layer_us: median microseconds of each engine layer at the profile's optimum.

    Without a run: no gate, nothing measured, no layer times.
    """

    gate: Gate | None = None
    measured: tuple[Measured, ...] = ()
    layer_us: dict[str, float] = field(default_factory=dict)


def why_not(built: Built, machine: Machine) -> str:
    """Why a plan does not run on this machine; empty where it does."""
    device = machine.device
    if device is None:
        return machine.absent or "no GPU"
    if device.capability not in built.purpose.capabilities:
        wanted = ", ".join(built.purpose.capabilities)
        return f"{device.name} has compute capability {device.capability}, the engine is for {wanted}"
    return _other_power_mode(built.opened.bundle, machine.gpu)


def _other_power_mode(bundle: Bundle, gpu: Gpu | None) -> str:
    """A target with a power mode is that mode: figures of another one would stand under its name.

    A device that does not tell its mode, such as a container without nvpmodel, is measured; its rows say so.
    """
    wanted = bundle.target.get("power_mode")
    found = gpu.clocks.read().power_mode if gpu is not None and wanted else None
    if found is None or found == wanted:
        return ""
    return f"the device is in power mode {found}, {bundle.target.get('name')} means {wanted} (set it with nvpmodel)"


def run_plans(
    plans: Sequence[Built], trt: Any, gpu: Gpu, options: FinishOptions, gates: dict[str, Gate]
) -> list[Evidence]:
    """Evidence for each plan, in order. gates: filled with each comparison, by role, before it is held to its limits.

    Raises ParityError where outputs differ: then nothing is timed.
    """
    from gpusq.device_measurement import measure
    from gpusq.engines.device_engine import DeviceEngine

    engines: dict[str, DeviceEngine] = {}
    for built in plans:
        role = built.opened.role
        options.progress(f"compare {role}", 0, None, "outputs on the bundle's samples")
        engines[role] = DeviceEngine(built.plan.plan, trt, gpu.cuda)
        gates[role] = compare_outputs(engines[role], built.opened.bundle, built.names)
        check_gate(gates[role], f"the {role}")
    batches = [b for b in BATCHES if b <= plans[0].opened.bundle.profile.maximum]
    measured = measure(engines, batches, gpu.cuda, gpu.clocks, seconds=options.seconds, progress=options.progress)
    return [
        Evidence(
            gates[built.opened.role],
            tuple(m for m in measured if m.name == built.opened.role),
            _layer_us(engines[built.opened.role], built.opened.bundle),
        )
        for built in plans
    ]


def compare_outputs(engine: DeviceEngine, bundle: Bundle, names: Mapping[str, str]) -> Gate:
    """Run the bundle's samples and hold the outputs against the expected ones. names: as of `Built`."""
    from gpusq.engines.device_runner import DeviceRunner

    images, expected = bundle.expected()
    runner = DeviceRunner(engine)
    try:
        found = {names.get(name, name): array for name, array in runner.outputs(images).items()}
        return gate_of(bundle.task)(bundle, expected, found)
    finally:
        runner.close()


def _layer_us(engine: DeviceEngine, bundle: Bundle) -> dict[str, float]:
    from gpusq.engines.device_session import Session

    with Session(engine) as session:
        return session.layer_times_us(bundle.profile.optimum)
