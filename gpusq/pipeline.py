"""Run the chain against a store: reuse what is there, fan out to the targets, gather the evidence."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpusq.stages import Build, Intake
from gpusq.stages.stage import Context, Done, run_stage

if TYPE_CHECKING:
    from gpusq.artifacts import Artifact, Store
    from gpusq.pictures import Pictured
    from gpusq.recipe import Recipe
    from gpusq.reports import LayerTime, Lineage, Report, Row, Sweep

SOURCE = re.compile(r"^(hf|new|timm):|\.py:\w+$")
LAYER_TIME_BATCH = 8
NO_ROWS = ("engine", "sensitivity")
"""Kinds without predicted rows: engines are measured, a sensitivity artifact is no model."""
ROLES = ("model", "dense twin")


@dataclass(frozen=True)
class Step:
    """One stage of a run: its role ("model" or "dense twin") and what came of it."""

    role: str
    done: Done


@dataclass(frozen=True)
class Compressed:
    """What a run gave: its steps in order and the report."""

    steps: tuple[Step, ...]
    report: Report

    @property
    def ships(self) -> bool:
        """Whether there is a verdict and every one says ship."""
        verdicts = self.report.verdicts
        return bool(verdicts) and all(v.decision == "ship" for v in verdicts)

    def to_json(self) -> dict[str, Any]:
        """`artifacts` (stage, kind, digest, path, ...), `reports` (rows) and `verdict`, as plain data."""
        report = self.report.model_dump(mode="json")
        return {
            "artifacts": [{"role": s.role, **record_of(s.done)} for s in self.steps],
            "reports": report["rows"],
            "verdict": report["verdicts"],
        }


def record_of(done: Done) -> dict[str, Any]:
    """One finished stage as plain data."""
    a = done.artifact
    return {
        "stage": a.manifest.stage,
        "kind": a.kind,
        "target": a.manifest.target,
        "digest": a.digest,
        "path": str(a.path),
        "reused": done.reused,
        "seconds": round(done.seconds, 3),
    }


def compress(recipe: Recipe, context: Context) -> Compressed:
    """Model and images to engines, bundles and a report.

    The store is held by this run from the first stage to the report. Targets are checked before any work.
    """
    recipe = replace(recipe, targets=_distinct(recipe.targets))
    with _held(context):
        steps = _chain(recipe, context)
        if not context.processes.main:
            return Compressed(tuple(steps), _empty_report(recipe))
        report = _report(recipe, steps, context)
        _keep(report, steps, context)
    return Compressed(tuple(steps), report)


@contextmanager
def _held(context: Context) -> Iterator[None]:
    if context.processes.main:
        with context.store.lock(wait_s=context.wait_s, on_wait=context.on_wait):
            yield
    else:
        yield


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names as given, one for each target that they stand for. Raises UnknownTargetError."""
    from gpusq.targets import load_target

    return tuple({load_target(name).name: name for name in reversed(names)}.values())[::-1]


def _chain(recipe: Recipe, context: Context) -> list[Step]:
    """intake, (sensitivity,) prune, qat, export (and the twin's export), then a build of both for each target."""
    steps: list[Step] = []

    def add(role: str, done: Done) -> Artifact:
        steps.append(Step(role, done))
        if done.reused:
            a = done.artifact
            context.progress(a.manifest.stage, 1, 1, f"reused {a.kind} {a.digest[:12]}, made by an earlier run")
        return done.artifact

    dense = add("model", _dense(recipe, context))
    _check_classes(dense, context)
    if recipe.sensitivity is not None:
        recipe = keeping(recipe, add("model", run_stage(recipe.sensitivity, dense, context)))
    sparse = add("model", run_stage(recipe.prune, dense, context))
    quantized = add("model", run_stage(recipe.qat, sparse, context))
    forms = [(ROLES[0], quantized), (ROLES[1], dense)]
    exported = [(role, add(role, run_stage(recipe.export, form, context))) for role, form in forms]
    for target in recipe.targets:
        for role, onnx in exported:
            add(role, run_stage(replace(recipe.build, target=target), onnx, context))
    return steps


def keeping(recipe: Recipe, sensitivity: Artifact) -> Recipe:
    """The recipe with the layers that a sensitivity artifact names left out of 2:4 and INT8, beside those it had."""
    from gpusq.stages.sensitivity import RESULT

    found = sensitivity.read_json(RESULT)
    dense = tuple(dict.fromkeys((*recipe.prune.keep_dense, *found["keep_dense"])))
    floats = tuple(dict.fromkeys((*recipe.qat.keep_float, *found["keep_float"])))
    return replace(recipe, prune=replace(recipe.prune, keep_dense=dense), qat=replace(recipe.qat, keep_float=floats))


def _dense(recipe: Recipe, context: Context) -> Done:
    if recipe.model.startswith("artifact:"):
        found = context.store.resolve(recipe.model.removeprefix("artifact:"))
        return Done(found, True, 0.0)
    if recipe.train is not None:
        return run_stage(replace(recipe.train, model=recipe.model), None, context)
    return run_stage(Intake(model=recipe.model, classes=recipe.classes or _classes(recipe, context)), None, context)


def _classes(recipe: Recipe, context: Context) -> int | None:
    """A fresh head gets as many classes as the images have."""
    if context.data is None or recipe.model.startswith("hf:") or not context.data.train.supervised:
        return None
    return len(context.data.train.classes)


def _check_classes(dense: Artifact, context: Context) -> None:
    from gpusq.data import class_check

    images = context.images("compress")
    if images.train.supervised:
        class_check(images.train, tuple(dense.read_json("model.json")["classes"]))


def parent_of(reference: str, context: Context) -> Artifact:
    """The artifact that a command names: one of the store, or a model source that is taken in first."""
    if SOURCE.search(reference):
        return run_stage(Intake(model=reference), None, context).artifact
    found = context.store.resolve(reference)
    if "source.py" in found.manifest.files and context.store.root not in found.path.resolve().parents:
        context.progress("model", 0, None, f"running {found.path}/source.py: open only artifacts of people you trust")
    return found


def _report(recipe: Recipe, steps: list[Step], context: Context) -> Report:
    from gpusq.reports import Criteria, build_report

    title = f"{recipe.model or 'trained model'} on {recipe.data}"
    pictured = _pictures(steps, context)
    return build_report(
        title,
        _rows(steps, recipe, context),
        lineage=lineage_of(context.store, [s.done.artifact for s in steps]),
        layer_times=_layer_times(steps, recipe),
        sweeps=_sweeps(steps, recipe),
        pictures=pictured.pictures,
        cautions=[*sensitivity_cautions(steps), *pictured.cautions],
        notes=[*_untrained(recipe), *_annotation_notes(context), *_notes(steps, context)],
        criteria=Criteria(max_drop=recipe.max_drop, min_speedup=recipe.min_speedup),
    )


def _pictures(steps: list[Step], context: Context) -> Pictured:
    """Boxes of the CPU engines, dense and compressed; of the ONNX files where no CPU engine was built."""
    from gpusq.pictures import detection_pictures

    found: dict[str, dict[str, Artifact]] = {}
    for step in steps:
        title = "dense" if step.role == ROLES[1] else "compressed"
        found.setdefault(step.done.artifact.kind, {})[title] = step.done.artifact
    pair = found.get("engine") or found.get("onnx") or {}
    kind = "engine" if "engine" in found else "ONNX"
    return detection_pictures({f"{t} {kind}": pair[t] for t in ("dense", "compressed") if t in pair}, context)


def sensitivity_cautions(steps: Iterable[Step]) -> list[str]:
    """What limits the choice of layers that were left out."""
    from gpusq.reports.kept_layers import choice_cautions
    from gpusq.stages.sensitivity import RESULT

    found = [step.done.artifact for step in steps if step.done.artifact.kind == "sensitivity"]
    return [text for artifact in found for text in choice_cautions(artifact.read_json(RESULT))]


def _notes(steps: list[Step], context: Context) -> list[str]:
    """What a reader must know beside the rows: relaxed checks, TensorRT-RTX builds, builds that failed on a device."""
    from gpusq.device_rows import failure_notes
    from gpusq.stages.parity_gate import relaxed_note
    from gpusq.stages.rtx_facts import rtx_notes
    from gpusq.stages.sensitivity import RESULT, sensitivity_notes

    notes: list[str] = _further_figures(steps, context)
    for step in steps:
        a = step.done.artifact
        if a.kind == "sensitivity":
            notes += sensitivity_notes(a.read_json(RESULT))
        if a.kind == "onnx":
            notes.append(relaxed_note(a.read_json("export.json")))
        if a.kind == "quantized":
            notes += a.manifest.facts.get("notes", [])
        if a.kind == "bundle" and step.role == ROLES[0]:
            notes += rtx_notes(a.manifest.facts["rtx"], str(a.manifest.target))
            notes += failure_notes(a, context)
    return [note for note in notes if note]


def _annotation_notes(context: Context) -> list[str]:
    """What a reader must know of boxes that are cut or left out in training."""
    from gpusq.data import annotation_notes

    return annotation_notes((context.data.train, context.data.test)) if context.data else []


def _untrained(recipe: Recipe) -> list[str]:
    """What a reader must know of a fresh model that nothing has taught."""
    if not recipe.model.startswith("new:") or recipe.train is not None:
        return []
    return [f"{recipe.model} has fresh weights and was not trained: its accuracy is chance, and so is what it loses"]


def _further_figures(steps: list[Step], context: Context) -> list[str]:
    """AP50 and the like of what was built, dense and compressed, in one line for each kind."""
    from gpusq.scoring import accuracy_of

    lines: dict[str, list[str]] = {}
    for step in steps:
        a = step.done.artifact
        if a.kind not in ("engine", "bundle"):
            continue
        found = accuracy_of(a, context)
        if found is None or not found.also:
            continue
        figures = ", ".join(f"{name} {value:.2%}" for name, value in {found.metric: found.value, **found.also}.items())
        lines.setdefault(f"{a.manifest.target} {a.kind}", []).append(f"{step.role} {figures}")
    return [f"{what}: {'; '.join(dict.fromkeys(parts))}" for what, parts in lines.items()]


def _empty_report(recipe: Recipe) -> Report:
    from gpusq.reports import build_report

    return build_report(recipe.model, ())


def _rows(steps: list[Step], recipe: Recipe, context: Context) -> list[Row]:
    """Models and ONNX files on every target; engines and bundles on their own."""
    from gpusq.device_rows import imported_rows
    from gpusq.evidence import measured_rows, rows_of
    from gpusq.targets import load_target

    rows: list[Row] = []
    artifacts = list({s.done.artifact.digest: s.done.artifact for s in steps}.values())
    for name in recipe.targets:
        target = load_target(name)
        for artifact in artifacts:
            if artifact.manifest.target in (None, target.name) and artifact.kind not in NO_ROWS:
                rows += rows_of(artifact, target, context)
            if artifact.manifest.target == target.name and artifact.kind == "bundle":
                rows += imported_rows(artifact, context)
        engines = [a for a in artifacts if a.kind == "engine" and a.manifest.target == target.name]
        if engines:
            rows += measured_rows(engines, target, context)
    return rows


def _layer_times(steps: list[Step], recipe: Recipe) -> list[LayerTime]:
    """Predicted operator times of what was built for each target, at one batch size."""
    from gpusq.evidence import layer_times
    from gpusq.targets import load_target

    targets = {t.name: t for t in map(load_target, recipe.targets)}
    built = [s.done.artifact for s in steps if s.role == ROLES[0] and s.done.artifact.manifest.stage == Build.name]
    return [entry for a in built for entry in layer_times(a, targets[str(a.manifest.target)], LAYER_TIME_BATCH)]


def _sweeps(steps: list[Step], recipe: Recipe) -> list[Sweep]:
    """Predicted curves against batch of what was built for each target that is not at hand."""
    from gpusq.forecast import sweep_of_artifact
    from gpusq.targets import load_target

    targets = {t.name: t for t in map(load_target, recipe.targets)}
    built = [s.done.artifact for s in steps if s.role == ROLES[0] and s.done.artifact.kind == "bundle"]
    return [sweep_of_artifact(a, targets[str(a.manifest.target)]) for a in built]


DEFAULT_TARGETS = ("cpu", "a100", "agx-orin")


def report_of(artifact: Artifact, targets: tuple[str, ...], context: Context) -> Report:
    """A report of one artifact and its ancestors, on its own target or on `targets`; nothing is built.

    Latencies are predicted, except of a CPU engine, which is measured now, and of engines whose receipts were imported
    from a device; the dense twin of such a receipt comes with it. Accuracies are those kept in the store.
    """
    from gpusq.device_rows import failure_notes, imported_rows
    from gpusq.evidence import measured_rows, rows_of
    from gpusq.reports import build_report
    from gpusq.targets import load_target

    own = (artifact.manifest.target,) if artifact.manifest.target else DEFAULT_TARGETS
    chain = [*reversed(context.store.ancestors(artifact)), artifact]
    rows: list[Row] = []
    for target in map(load_target, targets or own):
        for a in chain:
            if a.kind == "engine":
                rows += measured_rows([a], target, context) if target.name == a.manifest.target else []
            elif a.manifest.target in (None, target.name):
                rows += rows_of(a, target, context)
            if a.kind == "bundle" and a.manifest.target == target.name:
                rows += imported_rows(a, context, with_twin=True)
    notes = _annotation_notes(context)
    notes += [note for a in chain if a.kind == "bundle" for note in failure_notes(a, context)]
    lineage = lineage_of(context.store, [artifact])
    return build_report(f"{artifact.kind} {artifact.digest[:12]}", rows, lineage=lineage, notes=notes)


def lineage_of(store: Store, artifacts: list[Artifact]) -> list[Lineage]:
    """Every artifact and its ancestors once, parents before children."""
    from gpusq.reports import Lineage

    found: dict[str, Lineage] = {}
    for artifact in artifacts:
        for a in (*store.ancestors(artifact), artifact):
            m = a.manifest
            entry = {"kind": m.kind, "stage": m.stage, "digest": m.digest, "key": m.key, "path": str(a.path)}
            parents = tuple(p.digest for p in m.parents)
            found.setdefault(m.digest, Lineage.model_validate({**entry, "parents": parents, "target": m.target}))
    return list(found.values())


def _keep(report: Report, steps: list[Step], context: Context) -> Path:
    from gpusq.runs import keep_report

    made = sorted({s.done.artifact.key for s in steps})
    return keep_report(report, context.store.root, hashlib.sha256(" ".join(made).encode()).hexdigest()[:16])
