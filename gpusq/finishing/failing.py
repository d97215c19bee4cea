"""A finishing run that fails: what was known by then becomes a receipt, and the error goes on as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from gpusq.engines.bundle import FP16, sha256_of
from gpusq.errors import CheckError, EngineError, GpusqError, ModelError, StoreError
from gpusq.finishing.building import BuiltFor, build_facts
from gpusq.finishing.layers import layer_receipt
from gpusq.finishing.receipt_file import FAILED, Receipt, Step, sealed_receipt, write_receipt
from gpusq.finishing.rows import GPU_BASE, forms, variant_of

if TYPE_CHECKING:
    from gpusq.engines.receipts import LayerReceipt
    from gpusq.finishing.engine_files import Built
    from gpusq.finishing.gate import Gate
    from gpusq.finishing.opened import FinishOptions, Opened
    from gpusq.machine import Machine

FAILURES = (EngineError, CheckError, ModelError)
"""Of the builder and of what was built. A wrong command or a full disk says nothing of the bundle."""


@dataclass
class Attempt:
    """A run as far as it came: opened bundles, what each is built for, and what was found of them so far."""

    opened: Sequence[Opened]
    purposes: Sequence[BuiltFor]
    machine: Machine
    step: Step = "build"
    plans: list[Built] = field(default_factory=list)
    gates: dict[str, Gate] = field(default_factory=dict)
    shown: list[LayerReceipt] = field(default_factory=list)


@contextmanager
def leaving_a_receipt(attempt: Attempt, options: FinishOptions) -> Iterator[None]:
    """Inside the block a failed build also writes its receipt, where one was asked for. The error goes on."""
    try:
        yield
    except FAILURES as error:
        if options.receipt is not None:
            try:
                write_receipt(failure_receipt(attempt, error), options.receipt)
            except StoreError as full:  # the build's own error is the one to end with
                options.progress("receipt", 0, None, f"not written: {full}")
        raise


def failure_receipt(attempt: Attempt, error: GpusqError) -> Receipt:
    """The sealed receipt of a run that ended with `error`."""
    from gpusq import __version__

    machine, role = attempt.machine, _role(attempt)
    return sealed_receipt(
        {
            "gpusq": __version__,
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "target": str(attempt.opened[0].bundle.target.get("name")),
            "status": FAILED,
            "engines": [],
            "failure": {
                "error": error.to_json(),
                "step": attempt.step,
                "role": role,
                "builder": machine.builder,
                "library": str(machine.trt.__version__),
                "device": machine.device.to_json() if machine.device else None,
                "bundles": [_attempted(attempt, index, error, role) for index in range(len(attempt.opened))],
            },
        }
    )


def _role(attempt: Attempt) -> str:
    """The bundle that the run was at: the first without a plan, the first whose outputs differ, else the model."""
    if attempt.step == "build":
        return attempt.opened[min(len(attempt.plans), len(attempt.opened) - 1)].role
    return next((role for role, gate in attempt.gates.items() if not gate.passed), attempt.opened[0].role)


def _attempted(attempt: Attempt, index: int, error: GpusqError, role: str) -> dict[str, Any]:
    opened = attempt.opened[index]
    built = attempt.plans[index] if index < len(attempt.plans) else None
    gate = attempt.gates.get(opened.role)
    shown = _layers(attempt, index, built, error) if built or opened.role == role else None
    return {
        "role": opened.role,
        "bundle": opened.artifact.digest,
        "variant": variant_of(forms(opened.bundle.files)[0], GPU_BASE),
        "onnx_sha256": built.plan.onnx_sha256 if built else _graph(opened),
        "build": build_facts(built.plan) if built else None,
        "layers": shown.model_dump(mode="json") if shown else None,
        "gate": gate.to_json() if gate else None,
    }


def _layers(attempt: Attempt, index: int, built: Built | None, error: GpusqError) -> LayerReceipt | None:
    """What the plan runs; of a build that gave none, its refusal. None where the engine's report cannot be read."""
    from gpusq.engines.receipts import refused_receipt
    from gpusq.engines.tensorrt import PlanOptions

    if index < len(attempt.shown):
        return attempt.shown[index]
    if built is not None:
        try:
            return layer_receipt(built, {})
        except EngineError:
            return None
    purpose, trt = attempt.purposes[index], attempt.machine.trt
    options = PlanOptions(compute_capabilities=purpose.capabilities if purpose.ahead else ())
    return refused_receipt(trt.__name__, str(trt.__version__), _graph(attempt.opened[index]), options, error)


def _graph(opened: Opened) -> str:
    """Of the ONNX file; the digest of a model that goes to its builder without one."""
    onnx = opened.bundle.files.get(FP16)
    return opened.artifact.digest if onnx is None else sha256_of(onnx)
