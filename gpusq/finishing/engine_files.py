"""The files of an engine directory, and what its seal names."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from gpusq.artifacts.canonical import pretty_json
from gpusq.engines.bundle import INPUT, SAMPLES, Bundle
from gpusq.engines.compatibility import FACTS, PLAN, Place
from gpusq.finishing.rows import LAYERS, WORKLOAD

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpusq.engines.tensorrt import BuiltPlan
    from gpusq.finishing.building import BuiltFor
    from gpusq.finishing.opened import Opened
    from gpusq.machine import Machine

RECEIPT = "receipt.json"
SCHEMA_VERSION = 1
CARRIED = ("model.json", LAYERS, WORKLOAD)
LIBRARIES = ("gpusq", "cuda-python", "numpy")


@dataclass(frozen=True)
class Built:
    """A bundle that was built: what for, and what came out.

    names: plan's output -> the bundle's, where the builder gives outputs names of its own.
    """

    opened: Opened
    purpose: BuiltFor
    plan: BuiltPlan
    names: Mapping[str, str] = field(default_factory=dict)


def place_of_plan(built: Built, machine: Machine) -> Place:
    """Where the plan runs: its builder and version, compute capabilities, and this platform.

    gpusq adds no plugins to a network, so a plan uses those alone that its ONNX file names: none so far.
    """
    return Place(machine.builder, str(machine.trt.__version__), built.purpose.capabilities, platform.machine())


def engine_facts(built: Built, place: Place) -> dict[str, Any]:
    """engine.json: what the plan is and how to feed it."""
    bundle = built.opened.bundle
    _, expected = _expected(built)
    profile = bundle.profile
    return {
        "schema_version": SCHEMA_VERSION,
        "runtime": f"{built.plan.library} {built.plan.version}",
        "target": str(bundle.target.get("name")),
        "task": bundle.task,
        "place": place.to_json(),
        "stand_in": built.purpose.stand_in,
        "plan_sha256": built.plan.plan_sha256,
        "plan_bytes": len(built.plan.plan),
        "onnx_sha256": built.plan.onnx_sha256,
        "bundle": built.opened.artifact.digest,
        "input": {"name": bundle.input_name, "shape": list(bundle.input_shape), "dtype": "float32"},
        "outputs": {name: list(array.shape[1:]) for name, array in expected.items()},
        "profile": {"minimum": profile.minimum, "optimum": profile.optimum, "maximum": profile.maximum},
    }


def files_of(built: Built, facts: Mapping[str, Any], receipt: Mapping[str, Any]) -> dict[str, bytes]:
    """Name -> bytes of everything in the directory but its seal."""
    bundle: Bundle = built.opened.bundle
    files = {name: bundle.files[name] for name in (SAMPLES, *CARRIED) if name in bundle.files}
    if built.names:
        images, expected = _expected(built)
        files[SAMPLES] = samples_of(images, expected)
    json_files = {FACTS: facts, RECEIPT: receipt}
    return {**files, PLAN: built.plan.plan, **{name: pretty_json(_plain(v), name) for name, v in json_files.items()}}


def _expected(built: Built) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """Images and expected outputs under the names that the plan has for them."""
    images, expected = built.opened.bundle.expected()
    own = {theirs: name for name, theirs in built.names.items()}
    return images, {own.get(name, name): array for name, array in expected.items()}


def samples_of(images: NDArray[Any], outputs: Mapping[str, NDArray[Any]]) -> bytes:
    """A samples file: images [n, C, H, W] and what is expected of them, [n, ...] each."""
    import numpy as np
    from safetensors.numpy import save

    return bytes(save({name: np.ascontiguousarray(a) for name, a in {INPUT: images, **outputs}.items()}))


def _plain(value: Any) -> Any:
    """Dataclasses were turned into dictionaries already; tuples become lists."""
    return json.loads(json.dumps(value))


def toolchain(machine: Machine) -> dict[str, str]:
    """Versions of what built and ran it: gpusq, the library, CUDA and the driver where there is a device."""
    found = {machine.builder: str(machine.trt.__version__)}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    if machine.device is not None:
        found |= {"cuda": machine.device.runtime, "driver": machine.device.driver}
    return found
