"""The device side: `gpusq build BUNDLE` on the device, `gpusq import RECEIPT` back on the host. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpusq.cli.options import DEFAULT_STORE, Json, StoreDir, open_store

if TYPE_CHECKING:
    from gpusq.finishing import Finished, FinishOptions

EngineDir = Annotated[
    Path | None, typer.Option("--out", help="Finishing: where the engine goes. Default: ./engine-BUNDLE.")
]
Builder = Annotated[
    str, typer.Option("--builder", help="Finishing: tensorrt, or tensorrt-rtx, which also builds without a GPU.")
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
    Path | None, typer.Option("--receipt", help="Finishing: write the receipt here, also of a failed build, for `gpusq import`.")
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
ReceiptFile = Annotated[Path, typer.Argument(help="Receipt that `gpusq build BUNDLE --receipt FILE` wrote.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("import", help="Add a receipt from a device to the store, so that reports show what it measured.")(
        import_
    )


def finish_bundle(bundle: Path, options: FinishOptions, quiet: bool, json: bool) -> None:
    """Finish a bundle and print what came of it."""
    from dataclasses import replace

    from gpusq.cli.output import print_json, print_line, progress_lines
    from gpusq.finishing import finish

    with progress_lines(quiet) as progress:
        finished = finish(bundle, replace(options, progress=progress))
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
