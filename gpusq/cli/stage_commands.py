"""`gpusq intake | train | prune | qat | export | build`: one stage at a time, on the previous stage's artifact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from gpusq.cli.device_commands import (
    Builder,
    EngineDir,
    MeasureSeconds,
    ReceiptOut,
    RequireSparse,
    TimingCache,
    Twin,
    Workspace,
    build_from_model,
    default_out,
    finish_bundle,
)
from gpusq.cli.options import DEFAULT_STORE, Data, Json, Quiet, StoreDir, Wait, run_context
from gpusq.cli.stage_options import given, with_options
from gpusq.stages import Build, Export, Intake, Prune, Qat, Train
from gpusq.stages.stage import Stage

Parent = Annotated[str, typer.Argument(help="Artifact of the stage before (path, digest prefix, KIND-PREFIX).")]
Source = Annotated[
    str, typer.Argument(help="Dense artifact, or a model: hf:DIR, new:NAME, file.py:function, timm:NAME.")
]
Bundle = Annotated[
    str, typer.Argument(help="ONNX artifact, or a bundle to finish on this device; with torch-tensorrt a model.")
]


def register(app: typer.Typer) -> None:
    """Add the stage commands to the application."""
    app.command("intake", help="Read a model into the store as a dense artifact.")(
        with_options(intake, Intake, frozenset())
    )
    app.command("train", help="Train a `new:` model on labelled images; gives a dense artifact.")(
        with_options(train, Train, frozenset())
    )
    app.command("prune", help="Prune to 2:4 and fine-tune under distillation.")(with_options(prune, Prune, frozenset()))
    app.command("qat", help="Quantize to INT8 with quantization-aware training (0 epochs: post-training).")(
        with_options(qat, Qat, frozenset())
    )
    app.command("export", help="Write ONNX (float32 and strongly typed FP16) and check it.")(
        with_options(export, Export, frozenset())
    )
    app.command("build", help="Build an engine or a bundle for a target, or finish a bundle on its device.")(
        with_options(build, Build, frozenset())
    )


def intake(
    store: StoreDir = DEFAULT_STORE, quiet: Quiet = False, wait: Wait = None, json: Json = False, **options: Any
) -> None:
    """Read a model into the store."""
    _run(Intake(), None, options, store, "", quiet, wait, json)


def train(
    data: Data = "",
    store: StoreDir = DEFAULT_STORE,
    quiet: Quiet = False,
    wait: Wait = None,
    json: Json = False,
    **options: Any,
) -> None:
    """Train a fresh model."""
    _run(Train(), None, options, store, data, quiet, wait, json)


def prune(
    model: Source,
    data: Data = "",
    store: StoreDir = DEFAULT_STORE,
    quiet: Quiet = False,
    wait: Wait = None,
    json: Json = False,
    **options: Any,
) -> None:
    """Prune a dense model."""
    _run(Prune(), model, options, store, data, quiet, wait, json)


def qat(
    artifact: Parent,
    data: Data = "",
    store: StoreDir = DEFAULT_STORE,
    quiet: Quiet = False,
    wait: Wait = None,
    json: Json = False,
    **options: Any,
) -> None:
    """Quantize a sparse or dense model."""
    _run(Qat(), artifact, options, store, data, quiet, wait, json)


def export(
    artifact: Parent,
    data: Data = "",
    store: StoreDir = DEFAULT_STORE,
    quiet: Quiet = False,
    wait: Wait = None,
    json: Json = False,
    **options: Any,
) -> None:
    """Export a model to ONNX."""
    _run(Export(), artifact, options, store, data, quiet, wait, json)


def build(
    artifact: Bundle,
    out: EngineDir = None,
    builder: Builder = "tensorrt",
    twin: Twin = "auto",
    require_sparse: RequireSparse = None,
    receipt: ReceiptOut = None,
    timing_cache: TimingCache = None,
    workspace: Workspace = None,
    seconds: MeasureSeconds = 3.0,
    store: StoreDir = DEFAULT_STORE,
    quiet: Quiet = False,
    wait: Wait = None,
    json: Json = False,
    **options: Any,
) -> None:
    """Build an engine, or finish a bundle."""
    from gpusq.cli.output import refusals

    with refusals(json):
        from gpusq.engines.compatibility import FROM_MODELS
        from gpusq.finishing import FinishOptions

        chosen = FinishOptions(
            out=out or Path(),
            builder=builder,
            twin=twin,
            require_sparse=require_sparse,
            receipt=receipt,
            timing_cache=timing_cache,
            workspace_mib=workspace,
            seconds=seconds,
        )
        if builder == FROM_MODELS:
            build_from_model(artifact, store, given(options), chosen, quiet, json)
            return
        bundle = _bundle_of(artifact, store)
        finishing = {
            "--out": out,
            "--builder": builder if builder != "tensorrt" else None,
            "--twin": twin if twin != "auto" else None,
            "--require-sparse": require_sparse,
            "--receipt": receipt,
            "--timing-cache": timing_cache,
            "--workspace": workspace,
        }
        _check_options(finishing, options, is_bundle=bundle is not None)
        if bundle is not None:
            finish_bundle(bundle, replace(chosen, out=out or default_out(bundle)), quiet, json)
            return
    _run(Build(), artifact, options, store, "", quiet, wait, json)


def _check_options(finishing: dict[str, Any], options: dict[str, Any], *, is_bundle: bool) -> None:
    """Refuse the options of the other half of `gpusq build`, which would have no effect."""
    from gpusq.errors import UsageError

    stage = [f"--{name.replace('_', '-')}" for name in given(options)]
    wrong = stage if is_bundle else list(given(finishing))
    if wrong and is_bundle:
        raise UsageError(
            "a bundle is finished as it was sealed", got=", ".join(wrong), do="give these where the bundle is made"
        )
    if wrong:
        raise UsageError(
            "only the finishing of a bundle takes these options",
            got=", ".join(wrong),
            do="name a bundle, or leave them out",
        )


def _bundle_of(reference: str, store: Path) -> Path | None:
    """The directory of a bundle, named by its path or as an artifact of the store; None for anything else."""
    if (Path(reference) / "bundle.json").is_file():
        return Path(reference)
    if not store.is_dir():
        return None
    from gpusq.cli.options import open_store

    found = open_store(store).resolve(reference)
    return found.path if found.kind == "bundle" else None


def _run(
    stage: Stage,
    reference: str | None,
    options: dict[str, Any],
    store: Path,
    data: str,
    quiet: bool,
    wait: float | None,
    json: bool,
) -> None:
    from gpusq.cli.output import refusals
    from gpusq.pipeline import parent_of
    from gpusq.recipe import with_values
    from gpusq.stages.stage import run_stage

    with refusals(json):
        stage = with_values(stage, given(options), f"gpusq {stage.name}:")
        with run_context(store, data, quiet, wait) as context:
            parent = parent_of(reference, context) if reference is not None else None
            done = run_stage(stage, parent, context)
        if context.processes.main:
            _show(done, json)


def _show(done: Any, json: bool) -> None:
    from gpusq.cli.output import print_json, print_line
    from gpusq.pipeline import record_of

    record = record_of(done)
    if json:
        print_json(record)
    else:
        made = "reused" if done.reused else f"made in {done.seconds:.1f} s"
        print_line(f"{record['kind']} {record['digest'][:12]} {made}: {record['path']}")
