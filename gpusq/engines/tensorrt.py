"""On the device: a verified bundle becomes a TensorRT engine. Written against TensorRT 10.3 to 11.x.

Tested at its boundary with a stand-in for the library; not yet run on an A100 or an AGX Orin.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpusq.engines.bundle import FP16, Bundle, read_bundle
from gpusq.errors import EngineError, MissingExtraError, UsageError

PLAN, FACTS = "engine.plan", "engine.json"
WORKSPACE_BYTES = 2 << 30
LOG_TAIL_LINES = 5


@dataclass(frozen=True)
class EngineFacts:
    """What was built, with what, from what; written as engine.json beside engine.plan.

    sparse_eligible, sparse_chosen: layers in TensorRT's own "(Sparsity)" log lines, None where it logged none.
    """

    target: str
    tensorrt: str
    platform: str
    plan_sha256: str
    plan_bytes: int
    onnx_sha256: str
    sparse_eligible: int | None
    sparse_chosen: int | None


def finish_bundle(directory: Path, out: Path) -> EngineFacts:
    """Verify the bundle, build the engine with the TensorRT of this device, write engine.plan and engine.json to `out`.

    The bundle stays as it was sealed, so `out` must lie outside of it (UsageError).
    Raises TamperedArtifactError before anything is parsed, MissingExtraError without TensorRT, EngineError with
    TensorRT's own message where the file does not parse or build.
    """
    if directory.resolve() in (out.resolve(), *out.resolve().parents):
        raise UsageError("the engine is written outside the bundle", got=str(out), do="choose another --out")
    bundle = read_bundle(directory)
    trt = _tensorrt()
    log = _logger(trt)
    plan = _build(trt, log, bundle)
    eligible, chosen = _sparse_counts(log.messages)
    facts = EngineFacts(
        target=str(bundle.target.get("name", "")),
        tensorrt=str(trt.__version__),
        platform=platform.machine(),
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        plan_bytes=len(plan),
        onnx_sha256=hashlib.sha256(bundle.files[FP16]).hexdigest(),
        sparse_eligible=eligible,
        sparse_chosen=chosen,
    )
    out.mkdir(parents=True, exist_ok=True)
    _write(out / PLAN, plan)
    _write(out / FACTS, (json.dumps(asdict(facts), indent=1, sort_keys=True) + "\n").encode())
    return facts


def _tensorrt() -> Any:
    try:
        return importlib.import_module("tensorrt")
    except ImportError as error:
        where = "JetPack brings it: sudo apt install nvidia-jetpack, and make the virtual environment with"
        hint = f" ({where} --system-site-packages)" if platform.machine() == "aarch64" else ""
        raise MissingExtraError("tensorrt", "tensorrt", f"building the engine on the device{hint}") from error


def _logger(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps the messages: the sparsity counts and the reasons of a failure are among them."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity != trt.ILogger.VERBOSE or "parsity" in message:
                self.messages.append(message)

    return Log()


def _build(trt: Any, log: Any, bundle: Bundle) -> bytes:
    builder = trt.Builder(log)
    # TensorRT 11 knows no other typing and may drop the flag; 10.x needs it
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(bundle.files[FP16]):
        raise _failed("parse the ONNX file", [parser.get_error(i).desc() for i in range(parser.num_errors)])
    plan = builder.build_serialized_network(network, _config(trt, builder, bundle))
    if plan is None:
        raise _failed("build the engine", log.messages)
    return bytes(plan)


def _config(trt: Any, builder: Any, bundle: Bundle) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # tactic names: the proof of sparse kernels
    profile = builder.create_optimization_profile()
    profile.set_shape(bundle.input_name, *bundle.profile.shapes(bundle.input_shape))
    config.add_optimization_profile(profile)
    return config


def _sparse_counts(messages: list[str]) -> tuple[int | None, int | None]:
    """Numbers of the lines "(Sparsity) Found N layer(s) eligible" and "(Sparsity) Chose M layer(s)"."""
    counts = []
    for pattern in (r"\(Sparsity\) Found (\d+) layer", r"\(Sparsity\) Chose (\d+) layer"):
        found = [match for message in messages if (match := re.search(pattern, message))]
        counts.append(int(found[-1].group(1)) if found else None)
    return counts[0], counts[1]


def _failed(step: str, messages: list[str]) -> EngineError:
    tail = " | ".join(message.strip()[:300] for message in messages[-LOG_TAIL_LINES:])
    return EngineError(
        f"TensorRT must {step} of the bundle",
        got=tail or "no message",
        do="check the TensorRT version against the target's, and the free memory of the device",
    )


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)
