"""What this machine can build and run: each finding with what was seen and how to mend it. No torch."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from gpusq.doctor import gpu, host, tensorrt
from gpusq.doctor.finding import Finding, State
from gpusq.doctor.gpu_code import gpu_code
from gpusq.doctor.known_bad import Facts, holding, known_bad, waiting_for_model
from gpusq.doctor.machine import Machine

__all__ = ["Finding", "Machine", "State", "examine", "examine_model"]


def examine(machine: Machine | None = None, operators: Collection[str] | None = None) -> list[Finding]:
    """All findings: the machine first, then TensorRT, the known-bad list and the libraries.

    "absent" is a missing option, "problem" is not. operators: op types of a model to hold against the list.
    """
    machine = machine or Machine()
    seen = gpu.look_for_gpu(machine)
    return [
        *(check(machine) for check in (host.python, host.processor, host.memory, host.disk)),
        *gpu.gpu_findings(seen, machine),
        *tensorrt.import_findings(machine, seen),
        *tensorrt.code_findings(seen, gpu_code(machine)),
        *_known_bad(machine, seen, operators),
        *host.libraries(machine),
    ]


def examine_model(onnx: Path | None, bundle: Path | None) -> frozenset[str] | None:
    """Op types of the model to check, None where none was given; a bundle is verified first."""
    from gpusq.doctor.model_operators import operators_of_bundle, operators_of_file

    found = [operators_of_file(onnx)] if onnx else []
    found += [operators_of_bundle(bundle)] if bundle else []
    return frozenset[str]().union(*found) if found else None


def _known_bad(machine: Machine, seen: gpu.Gpu, operators: Collection[str] | None) -> list[Finding]:
    version = tensorrt.tensorrt_version(machine)
    facts = Facts(version, seen.capability, seen.jetson, seen.l4t, machine.installed, operators)
    entries = known_bad()
    found = [
        Finding(f"known bad: {e.id}", "problem", f"{e.what} (known from {e.evidence})", e.do, e.sources)
        for e in holding(entries, facts)
    ]
    got = f"{len(entries)} entries, {len(found)} hold here" + (" for this model" if operators is not None else "")
    waiting = [f"{', '.join(e.when.operators)} ({e.id})" for e in waiting_for_model(entries, facts)]
    mend = (
        f"models with {'; '.join(waiting)}: check each with `gpusq doctor --onnx FILE` or --bundle" if waiting else ""
    )
    return [Finding("known-bad list", "ok", got, mend), *found]
