"""A bundle becomes an engine on the device at hand: verified, built, compared, measured, sealed; with one receipt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gpusq.artifacts import Artifact
from gpusq.errors import UsageError
from gpusq.finishing.building import BuiltFor, build_bundle, build_facts, built_for
from gpusq.finishing.engine_files import Built, engine_facts, files_of, place_of_plan, toolchain
from gpusq.finishing.failing import Attempt, leaving_a_receipt
from gpusq.finishing.layers import layer_receipt, layer_verdicts
from gpusq.finishing.opened import FinishOptions, open_bundles
from gpusq.finishing.receipt_file import MEASURED, NOT_RUN, Receipt, sealed_receipt, write_receipt
from gpusq.finishing.rows import GPU_BASE, device_row, forms, variant_of
from gpusq.finishing.running import Evidence, run_plans, why_not
from gpusq.finishing.sealing import seal_engine
from gpusq.machine import Machine, MachineOf, open_machine


@dataclass(frozen=True)
class Finished:
    """The sealed engines by role ("model", "dense twin"), and the receipt of all."""

    engines: Mapping[str, Artifact]
    receipt: Receipt


def finish(directory: Path, options: FinishOptions, machine_of: MachineOf = open_machine) -> Finished:
    """Finish a bundle, and its dense twin in the same run where there is one.

    Every byte of both is checked before the library is loaded. Nothing is sealed unless every step held; a build that
    failed leaves its reason in the receipt file, where one was asked for.
    Raises TamperedArtifactError, UsageError, MissingExtraError, EngineError, ParityError, CheckError.
    """
    opened = open_bundles(directory, options)
    machine = machine_of(options.builder)
    purposes = [built_for(each.bundle, machine.builder, machine.trt, machine.device) for each in opened]
    _check_cache(purposes, options)
    attempt = Attempt(opened, purposes, machine)
    with leaving_a_receipt(attempt, options):
        _build_all(attempt, options)
        return complete(attempt, options)


def complete(attempt: Attempt, options: FinishOptions) -> Finished:
    """Run, judge, seal and report plans that were built."""
    plans, machine = attempt.plans, attempt.machine
    absent = why_not(plans[0], machine)
    status = f"{NOT_RUN}{absent}" if absent else MEASURED
    evidence = [Evidence()] * len(plans)
    if machine.gpu is not None and not absent:
        attempt.step = "run"
        evidence = run_plans(plans, machine.trt, machine.gpu, options, attempt.gates)
    attempt.step = "layers"
    attempt.shown = [layer_receipt(built, seen.layer_us) for built, seen in zip(plans, evidence, strict=True)]
    verdicts = layer_verdicts(attempt.shown, options.require_sparse)
    layers = [
        {"receipt": receipt.model_dump(mode="json"), "verdict": list(lines)}
        for receipt, lines in zip(attempt.shown, verdicts, strict=True)
    ]
    parts = list(zip(plans, evidence, layers, strict=True))
    engines = [_seal(*part, machine, status, options) for part in parts]
    entries = [_entry(*part, engine) for part, engine in zip(parts, engines, strict=True)]
    receipt = _receipt(plans, evidence, engines, entries, machine, status)
    if options.receipt is not None:
        write_receipt(receipt, options.receipt)
    return Finished({o.role: engine for o, engine in zip(attempt.opened, engines, strict=True)}, receipt)


def _check_cache(purposes: Sequence[BuiltFor], options: FinishOptions) -> None:
    if options.timing_cache is not None and any(purpose.ahead for purpose in purposes):
        raise UsageError(
            "a build ahead of time takes no timing cache", got=str(options.timing_cache), do="leave --timing-cache out"
        )


def _build_all(attempt: Attempt, options: FinishOptions) -> None:
    """One plan after the other; what the first learned of tactics goes to the next, and to the timing cache."""
    path = options.timing_cache
    cache = path.read_bytes() if path is not None and path.is_file() else None
    for each, purpose in zip(attempt.opened, attempt.purposes, strict=True):
        plan = build_bundle(
            each.bundle,
            attempt.machine.trt,
            purpose,
            workspace_mib=options.workspace_mib,
            timing_cache=None if purpose.ahead else cache,
            progress=options.progress,
            what=each.role,
        )
        cache = plan.timing_cache or cache
        attempt.plans.append(Built(each, purpose, plan))
    last = attempt.plans[-1].plan.timing_cache
    if path is not None and last:
        _write_file(path, last)


def _seal(
    built: Built, evidence: Evidence, layers: dict[str, Any], machine: Machine, status: str, options: FinishOptions
) -> Artifact:
    opened, place = built.opened, place_of_plan(built, machine)
    receipt = {
        "status": status,
        "build": build_facts(built.plan),
        "layers": layers,
        "gate": evidence.gate.to_json() if evidence.gate else None,
        "device": machine.device.to_json() if machine.device else None,
        "measurements": [measured.to_json() for measured in evidence.measured],
    }
    options.progress("seal", 0, None, str(opened.out))
    return seal_engine(
        opened.out,
        files_of(built, engine_facts(built, place), receipt),
        params={"builder": options.builder, "workspace_mib": options.workspace_mib},
        parent=opened.artifact,
        inputs={"onnx": built.plan.onnx_sha256},
        target=str(opened.bundle.target.get("name")),
        toolchain=toolchain(machine),
        facts={"stand_in": built.purpose.stand_in, "status": status, "place": place.to_json()},
    )


def _entry(built: Built, evidence: Evidence, layers: dict[str, Any], engine: Artifact) -> dict[str, Any]:
    """One engine of the receipt file."""
    states, _ = forms(built.opened.bundle.files)
    return {
        "role": built.opened.role,
        "bundle": built.opened.artifact.digest,
        "engine": engine.digest,
        "variant": variant_of(states, GPU_BASE),
        "onnx_sha256": built.plan.onnx_sha256,
        "plan_sha256": built.plan.plan_sha256,
        "plan_bytes": len(built.plan.plan),
        "place": engine.manifest.facts["place"],
        "build": build_facts(built.plan),
        "layers": layers["receipt"],
        "layer_verdict": layers["verdict"],
        "gate": evidence.gate.to_json() if evidence.gate else None,
        "stand_in": built.purpose.stand_in,
    }


def _receipt(
    plans: Sequence[Built],
    evidence: Sequence[Evidence],
    engines: Sequence[Artifact],
    entries: list[dict[str, Any]],
    machine: Machine,
    status: str,
) -> Receipt:
    """One receipt of all engines, with the verdict that their rows support."""
    from gpusq import __version__
    from gpusq.reports import verdict

    date = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    libraries = toolchain(machine)
    rows = [
        device_row(
            measured,
            engine,
            machine.device,
            libraries,
            f"{built.plan.library} {built.plan.version}",
            date,
            built.opened.bundle.target.get("power_mode"),
        )
        for built, seen, engine in zip(plans, evidence, engines, strict=True)
        for measured in seen.measured
        if machine.device is not None
    ]
    return sealed_receipt(
        {
            "gpusq": __version__,
            "date": date,
            "target": str(plans[0].opened.bundle.target.get("name")),
            "status": status,
            "engines": entries,
            "rows": [row.model_dump(mode="json") for row in rows],
            "measurements": [measured.to_json() for seen in evidence for measured in seen.measured],
            "verdicts": [found.model_dump(mode="json") for found in verdict(rows)],
        }
    )


def _write_file(path: Path, data: bytes) -> None:
    from gpusq.artifacts.durable import make_directories, replace_file, writing

    with writing(path, needed_bytes=len(data)):
        make_directories(path.absolute().parent)
        replace_file(path.absolute(), data)
