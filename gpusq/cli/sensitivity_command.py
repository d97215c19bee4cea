"""`gpusq sensitivity`: what each block loses by 2:4 and INT8, and which layers `--keep auto` would leave out."""

from __future__ import annotations

from typing import Any

import typer

from gpusq.cli.options import DEFAULT_STORE, Data, Json, Quiet, StoreDir, Wait, run_context
from gpusq.cli.stage_commands import Source
from gpusq.cli.stage_options import given, with_options
from gpusq.stages import Sensitivity


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    text = "Measure what each block loses by 2:4, by INT8 and by both (one-shot), and choose what to leave out."
    app.command("sensitivity", help=text)(with_options(sensitivity, Sensitivity, frozenset()))


def sensitivity(
    model: Source,
    data: Data = "",
    store: StoreDir = DEFAULT_STORE,
    quiet: Quiet = False,
    wait: Wait = None,
    json: Json = False,
    **options: Any,
) -> None:
    """Measure every block of a dense model."""
    from gpusq.cli.output import refusals
    from gpusq.pipeline import parent_of, record_of
    from gpusq.recipe import with_values
    from gpusq.stages.stage import run_stage

    with refusals(json):
        stage = with_values(Sensitivity(), given(options), "gpusq sensitivity:")
        with run_context(store, data, quiet, wait) as context:
            done = run_stage(stage, parent_of(model, context), context)
        if context.processes.main:
            _show(record_of(done), done.artifact.read_json("sensitivity.json"), json)


def _show(record: dict[str, Any], result: dict[str, Any], json: bool) -> None:
    from rich.table import Table

    from gpusq.cli.output import print_json, print_line, print_table
    from gpusq.reports.kept_layers import choice_cautions
    from gpusq.stages.sensitivity import sensitivity_notes

    cautions = choice_cautions(result)
    if json:
        print_json({**record, "sensitivity": result, "cautions": cautions})
        return
    table = Table(
        title=f"points of {result['metric']} lost (error of the outputs), {result['images']} images, one-shot"
    )
    for heading in ("block", "2:4", "INT8", "both"):
        table.add_column(heading)
    for block, losses in result["blocks"].items():
        cells = (f"{losses[f]['points']:+.2f} ({losses[f]['error']:.1%})" for f in ("sparse", "int8", "both"))
        table.add_row(block, *cells)
    print_table(table)
    for line in sensitivity_notes(result):
        print_line(line)
    for line in cautions:
        print_line(f"mind: {line}")
    print_line(f"keep_dense: {', '.join(result['keep_dense']) or 'none'}")
    print_line(f"keep_float: {', '.join(result['keep_float']) or 'none'}")
    print_line(f"{record['kind']} {record['digest'][:12]}: {record['path']}")
