"""The device side: `gpusq build BUNDLE` on the device, `gpusq import RECEIPT` back on the host. No torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpusq.cli.options import DEFAULT_STORE, Json, StoreDir, artifact_of, open_store

if TYPE_CHECKING:
    from gpusq.finishing import Finished, FinishOptions

EngineDir = Annotated[
    Path | None, typer.Option("--out", help="Finishing: where the engine goes. Default: ./engine-BUNDLE.")
]
Builder = Annotated[
    str,
    typer.Option(
        "--builder",
        help="Finishing: tensorrt, or tensorrt-rtx, which also builds without a GPU. torch-tensorrt: a float model "
        "artifact, on a GPU with torch, without ONNX.",
    ),
]
Twin = Annotated[
    str,
    typer.Option("--twin", help="Finishing: bundle of the dense twin, built in the same run; auto: beside it."),
]
RequireSparse = Annotated[
    float | None,
    typer.Option("--require-sparse", min=0, max=1, help="Finishing: least share of GEMM time in 2:4 kernels."),
]
ReceiptOut = Annotated[
    Path | None,
    typer.Option("--receipt", help="Finishing: write the receipt here, also of a failed build, for `gpusq import`."),
]
TimingCache = Annotated[
    Path | None, typer.Option("--timing-cache", help="Finishing: TensorRT's timing cache, read if there and written.")
]
Workspace = Annotated[
    int | None, typer.Option("--workspace", min=1, help="Finishing: scratch memory for tactics in MiB.")
]
MeasureSeconds = Annotated[
    float, typer.Option("--seconds", min=0.1, help="Finishing: time of measuring for each engine and batch size.")
]
MODEL_OPTIONS = ("target", "max_batch", "tolerance", "agreement")
"""Options of the stage `build` that also count where a model goes to torch-tensorrt."""
ReceiptFile = Annotated[Path, typer.Argument(help="Receipt that `gpusq build BUNDLE --receipt FILE` wrote.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("import", help="Add a receipt from a device to the store, so that reports show what it measured.")(
        import_
    )


def finish_bundle(bundle: Path, options: FinishOptions, quiet: bool, json: bool) -> None:
    """Finish a bundle and print what came of it."""
    from gpusq.finishing import finish

    _finish_with(lambda chosen: finish(bundle, chosen), options, quiet, json)


def build_from_model(
    reference: str, store: Path, stage: dict[str, Any], options: FinishOptions, quiet: bool, json: bool
) -> None:
    """Build a model artifact with torch-tensorrt and print what came of it. stage: options of the stage `build`."""
    from dataclasses import replace

    from gpusq.errors import UsageError
    from gpusq.finishing.from_model import finish_model
    from gpusq.recipe import with_values
    from gpusq.stages import Build

    unused = [f"--{name.replace('_', '-')}" for name in stage if name not in MODEL_OPTIONS]
    unused += ["--twin"] if options.twin != "auto" else []
    if unused or "target" not in stage:
        raise UsageError(
            "torch-tensorrt builds one model for one GPU: --target NAME, " + "--max-batch, --tolerance, --agreement",
            got=", ".join(unused) or "no --target",
            do="give --target a100, and leave out what does not belong to it",
        )
    artifact, build = artifact_of(reference, store), with_values(Build(), stage, "gpusq build:")
    chosen = options if options.out != Path() else replace(options, out=default_out(artifact.path))
    _finish_with(lambda told: finish_model(artifact, open_store(store), build, told), chosen, quiet, json)


def _finish_with(run: Callable[[FinishOptions], Finished], options: FinishOptions, quiet: bool, json: bool) -> None:
    from dataclasses import replace

    from gpusq.cli.output import print_json, print_line, progress_lines

    with progress_lines(quiet) as progress:
        finished = run(replace(options, progress=progress))
    if json:
        print_json(_record(finished))
        return
    for line in _lines(finished):
        print_line(line)


def default_out(bundle: Path) -> Path:
    """./engine-BUNDLE, with the first letters of the bundle's name."""
    return Path("engine-" + bundle.resolve().name[:24])


def _record(finished: Finished) -> dict[str, Any]:
    return {
        "engines": {
            role: {"path": str(engine.path), "digest": engine.digest, **engine.read_json("engine.json")}
            for role, engine in finished.engines.items()
        },
        "receipt": finished.receipt.model_dump(mode="json"),
    }


def _lines(finished: Finished) -> list[str]:
    lines = []
    for role, engine in finished.engines.items():
        facts = engine.read_json("engine.json")
        lines.append(f"{role}: engine {engine.path} for {facts['target']}, {facts['runtime']}, {engine.digest[:12]}")
        if facts["stand_in"]:
            lines.append(f"  {facts['stand_in']}")
    receipt = finished.receipt
    lines += [f"  {engine.role}: {line}" for engine in receipt.engines for line in engine.layer_verdict]
    lines.append(f"run: {receipt.status}" if receipt.rows else receipt.status)
    lines += [
        f"  {row.artifact.variant} batch {row.batch}: p50 {row.latency_ms.p50:.3f} ms; {row.note}"
        for row in receipt.rows
    ]
    lines += [f"verdict: {v['decision']} ({v['basis']}). {v['reason']}" for v in receipt.verdicts]
    return lines


def import_(receipt: ReceiptFile, store: StoreDir = DEFAULT_STORE, json: Json = False) -> None:
    """Add a receipt to the store."""
    from gpusq.cli.output import print_json, print_line, refusals, say
    from gpusq.finishing import import_receipt, read_receipt

    with refusals(json):
        found = read_receipt(receipt)
        opened = open_store(store)
        with opened.lock(on_wait=say):
            names = import_receipt(found, opened)
        if json:
            record = {"receipt": found.sha256, "status": found.status, "rows": len(found.rows), "bundles": names}
            failure = {"failure": found.failure.model_dump(mode="json")} if found.failure else {}
            print_json(record | failure)
            return
        print_line(f"receipt {found.sha256[:12]} of {found.target}: {found.status}, {len(found.rows)} measured rows")
        if found.failure is not None:
            print_line(f"  {found.failure}")
        for name in names:
            print_line(f"  beside {name}; see it with: gpusq report {name}")
