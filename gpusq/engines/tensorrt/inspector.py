"""What an engine is made of: EngineInspector's JSON, or the "Layers:" dump of a build log, as plain layers.

Read: detailed JSON of TensorRT 8.6 to 11.x, in which a tensor has "Format/Datatype" (one field) or "Format" and
"Datatype" (two); text dumps with the same fields in one line. NVIDIA/TensorRT#4020, #4056 and #4397 show both;
TensorRT-RTX 1.7.1 was read directly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpusq.engines.tensorrt.dump import parse_dump
from gpusq.engines.tensorrt.engine_layer import EngineLayer, layer_from_fields
from gpusq.engines.tensorrt.plan import BuiltPlan, Profile
from gpusq.errors import EngineError


@dataclass(frozen=True)
class Inspected:
    """All layers of an engine in its order. names_only: built without detailed verbosity, so nothing but names."""

    layers: tuple[EngineLayer, ...]
    names_only: bool


def layers_of(built: BuiltPlan) -> Inspected:
    """Layers of a built plan: from the inspector where the plan could be loaded, else from the build log."""
    if built.inspector_json is not None:
        return parse_inspector(built.inspector_json)
    return Inspected(parse_dump(built.layer_dump), names_only=False)


def parse_inspector(text: str) -> Inspected:
    """Read the JSON of EngineInspector or of trtexec --exportLayerInfo. Raises EngineError for other text."""
    try:
        entries = json.loads(text)["Layers"]
        names = [entry for entry in entries if isinstance(entry, str)]
        layers = tuple(layer_from_fields(entry) for entry in entries if isinstance(entry, Mapping))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EngineError("layer information must be EngineInspector's JSON", got=repr(text[:80])) from error
    if names and not layers:
        return Inspected(tuple(EngineLayer(name, "") for name in names), names_only=True)
    return Inspected(layers, names_only=False)


def inspect_plan(trt: Any, plan: bytes, log: Any, profile: Profile) -> tuple[str | None, str]:
    """(the inspector's JSON, "") of a plan that this machine can load, else (None, what went wrong).

    profile: the shapes to look at, (min, opt, max) of each input; its opt is set, since formats of dynamic shapes are
    not shown otherwise. The plan was built a moment ago in this process; others are loaded by `device_engine` only.
    """
    engine = trt.Runtime(log).deserialize_cuda_engine(plan)
    if engine is None:
        return None, "the plan could not be loaded for inspection: " + (log.errors[-1] if log.errors else "no message")
    inspector = engine.create_engine_inspector()
    context, problem = _context(engine, profile)
    if context is not None:
        inspector.execution_context = context
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return (str(text), problem) if text else (None, problem or "the inspector gave nothing")


def _context(engine: Any, profile: Profile) -> tuple[Any, str]:
    """(execution context at the profile's opt shapes, ""), or (None, why not): formats then stay unknown."""
    try:
        context = engine.create_execution_context()
    except (RuntimeError, MemoryError) as error:
        return None, f"no execution context for inspection: {error}"
    if context is None:
        return None, "no execution context for inspection"
    for name, (_, best, _) in profile.items():
        if not context.set_input_shape(name, best):
            return None, f"the inspector could not take shape {list(best)} for {name}"
    return context, ""


def read_profile(text: str) -> dict[str, float]:
    """Layer name -> microseconds, from the JSON of trtexec --exportProfile or a {name: milliseconds} object.

    The median where there is one, else the average; equal names are added up. Raises EngineError for other text.
    """
    try:
        data = json.loads(text)
        if isinstance(data, Mapping):
            return {str(name): float(ms) * 1e3 for name, ms in data.items()}
        times: dict[str, float] = {}
        for entry in data:
            if "name" in entry:
                ms = entry["medianMs"] if "medianMs" in entry else entry["averageMs"]
                times[str(entry["name"])] = times.get(str(entry["name"]), 0.0) + float(ms) * 1e3
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EngineError("a layer profile must be the JSON of trtexec --exportProfile", got=repr(text[:80])) from error
    return times
