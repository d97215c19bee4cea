"""Whether a sealed engine may be loaded here: decided from what was sealed, before any library sees a byte of it.

A plan is tied to the builder and its exact version, the compute capability, the platform and the plugins it uses.
TensorRT itself reports some of this only while it deserializes, so the answer is taken from the seal.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gpusq.errors import EngineError, StageOrderError, TamperedArtifactError

if TYPE_CHECKING:
    from gpusq.artifacts import Artifact
    from gpusq.engines.cuda import Device

PLAN, FACTS = "engine.plan", "engine.json"
BUILDERS = ("tensorrt", "tensorrt-rtx")
FROM_MODELS = "torch-tensorrt"
"""Builds plans of "tensorrt" from model artifacts, without a bundle."""


@dataclass(frozen=True)
class Place:
    """Where an engine runs. builder: one of BUILDERS. library: its full version, such as "10.3.0.30".

    capabilities: compute capabilities such as "8.0"; an engine may list several, a machine has one.
    plugins: "name:version", of an engine those it uses, of a machine those that are registered.
    """

    builder: str
    library: str
    capabilities: tuple[str, ...]
    platform: str
    plugins: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data, read back by `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Place:
        """Read what `to_json` wrote. Raises EngineError for anything else."""
        try:
            return cls(
                str(data["builder"]),
                str(data["library"]),
                tuple(map(str, data["capabilities"])),
                str(data["platform"]),
                tuple(map(str, data["plugins"])),
            )
        except (KeyError, TypeError) as error:
            raise EngineError("an engine must say where it runs", got=f"{error!r}", do="build it again") from error


def this_machine(builder: str, trt: Any, device: Device) -> Place:
    """The machine at hand with the given library."""
    return Place(builder, str(trt.__version__), (device.capability,), platform.machine(), registered_plugins(trt))


def registered_plugins(trt: Any) -> tuple[str, ...]:
    """The plugins that the library has registered, sorted; none where it has no registry."""
    registry = trt.get_plugin_registry() if hasattr(trt, "get_plugin_registry") else None
    creators = getattr(registry, "all_creators", None) or getattr(registry, "plugin_creator_list", None) or ()
    return tuple(sorted({f"{creator.name}:{creator.plugin_version}" for creator in creators}))


def differences(engine: Place, here: Place) -> tuple[str, ...]:
    """Why an engine built for one place does not run at another, a sentence each; empty where it does."""
    found = []
    if engine.builder != here.builder:
        found.append(f"it was built with {engine.builder}, here is {here.builder}")
    elif engine.library != here.library:
        found.append(f"it was built with {engine.builder} {engine.library}, here is {here.library}")
    if not set(here.capabilities) <= set(engine.capabilities):
        built, have = ", ".join(engine.capabilities), ", ".join(here.capabilities)
        found.append(f"it was built for compute capability {built}, here is {have}")
    if engine.platform != here.platform:
        found.append(f"it was built on {engine.platform}, here is {here.platform}")
    missing = sorted(set(engine.plugins) - set(here.plugins))
    if missing:
        found.append(f"it uses plugins that are not registered here: {', '.join(missing)}")
    return tuple(found)


def check_place(engine: Place, here: Place, rebuild: str) -> None:
    """Raise EngineError with the rebuild command unless the engine runs here."""
    found = differences(engine, here)
    if found:
        raise EngineError(
            "an engine runs only where it was built for", got="; ".join(found), do=f"rebuild it here: {rebuild}"
        )


def loadable_plan(artifact: Artifact, here: Place) -> bytes:
    """The plan's bytes, after every byte of the artifact was checked and the engine fits this machine.

    Raises StageOrderError for another kind of artifact, TamperedArtifactError, EngineError with the rebuild command.
    """
    check_whole(artifact)
    check_place(place_of(artifact), here, rebuild_command(artifact))
    return artifact.read(PLAN)


def check_whole(artifact: Artifact) -> None:
    """Raise unless this is a device engine whose every byte is what was sealed."""
    if artifact.kind != "engine" or PLAN not in artifact.manifest.files:
        raise StageOrderError("a device engine was expected", got=artifact.kind, do="run: gpusq build BUNDLE")
    problems = artifact.verify()
    if problems:
        raise TamperedArtifactError(
            f"engine {artifact.path.name} is not what was sealed",
            got="; ".join(problems[:3]),
            do=f"rebuild it: {rebuild_command(artifact)}",
        )


def is_device_engine(artifact: Artifact) -> bool:
    """Whether this is a plan for a GPU; the other engines run on a CPU."""
    return artifact.kind == "engine" and PLAN in artifact.manifest.files


def place_of(artifact: Artifact) -> Place:
    """Where a sealed engine runs. Raises EngineError where its engine.json does not say."""
    facts = json.loads(artifact.read(FACTS))
    if not isinstance(facts, dict) or not isinstance(facts.get("place"), dict):
        raise EngineError(f"{artifact.path.name}/{FACTS} must say where the engine runs", do="build it again")
    return Place.from_json(facts["place"])


def rebuild_command(artifact: Artifact) -> str:
    """The command that makes this engine again on the device."""
    parent = next(iter(artifact.manifest.parents), None)
    name = f"{parent.kind}-{parent.digest[:12]}" if parent else "BUNDLE"
    builder = str(artifact.manifest.params.get("builder", BUILDERS[0]))
    if builder == FROM_MODELS:
        return f"gpusq build {name} --builder {builder} --target {artifact.manifest.target}"
    return f"gpusq build {name}" + ("" if builder == BUILDERS[0] else f" --builder {builder}")
