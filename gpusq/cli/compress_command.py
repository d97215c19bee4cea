"""`gpusq compress`: everything, from a model and images to engines, bundles and a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gpusq.cli.options import DEFAULT_STORE, Json, Quiet, StoreDir, Wait, run_context

if TYPE_CHECKING:
    from gpusq.pipeline import Compressed
    from gpusq.recipe import Recipe

Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="hf:DIR, new:NAME (README lists them), file.py:function, timm:NAME or artifact:REF."
    ),
]
DataOption = Annotated[
    str, typer.Option("--data", "-d", help="Image folder, coco:DIR, voc:DIR, fashion-mnist[:DIR] or digits.")
]
Target = Annotated[
    list[str] | None,
    typer.Option("--target", "-t", help="cpu (where none is given), a100, agx-orin, ...; may be repeated."),
]
RecipeFile = Annotated[
    Path | None, typer.Option("--recipe", "-r", help="TOML recipe; options on the command line win.")
]
Setting = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="STAGE.KEY=VALUE, e.g. qat.epochs=2; may be repeated.")
]
HtmlFile = Annotated[Path | None, typer.Option("--html", help="Also write the report page here.")]
JsonFile = Annotated[Path | None, typer.Option("--report", help="Also write the report as JSON here.")]
Classes = Annotated[int | None, typer.Option("--classes", min=1, help="Classes of the head of a new: or timm: model.")]
Keep = Annotated[
    Literal["none", "auto"],
    typer.Option("--keep", help="auto: measure every block first, keep the costliest dense or FP16 (--max-drop)."),
]
MaxDrop = Annotated[
    float | None,
    typer.Option("--max-drop", min=0, help="Points of accuracy that may be lost: for --keep auto and the verdict."),
]
RequireShip = Annotated[bool, typer.Option("--require-ship", help="Exit 1 unless every verdict says ship.")]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("compress", help="Prune, quantize, export, build and report in one go.")(compress)


def compress(
    model: Model = "",
    data: DataOption = "",
    target: Target = None,
    recipe: RecipeFile = None,
    settings: Setting = None,
    classes: Classes = None,
    store: StoreDir = DEFAULT_STORE,
    html: HtmlFile = None,
    report: JsonFile = None,
    keep: Keep = "none",
    max_drop: MaxDrop = None,
    require_ship: RequireShip = False,
    quiet: Quiet = False,
    wait: Wait = None,
    json: Json = False,
) -> None:
    """Prune, quantize, export, build and report in one go."""
    from gpusq.cli.output import refusals

    with refusals(json):
        wanted = _keeping(_recipe(recipe, model, data, target, settings, classes), keep == "auto", max_drop)
        _check_places(html, report)
        with run_context(store, wanted.data, quiet, wait) as context:
            from gpusq.pipeline import compress as run

            result = run(wanted, context)
        if not context.processes.main:
            return
        _write(result, html, report)
        _print(result, json)
        if require_ship and not result.ships:
            raise SystemExit(1)


def _recipe(
    file: Path | None, model: str, data: str, targets: list[str] | None, settings: list[str] | None, classes: int | None
) -> Recipe:
    from dataclasses import replace

    from gpusq.errors import UsageError
    from gpusq.recipe import Recipe, apply_settings, load_recipe

    recipe = apply_settings(load_recipe(file) if file else Recipe(), settings or [])
    recipe = replace(recipe, model=model or recipe.model, data=data or recipe.data, classes=classes or recipe.classes)
    if targets:
        recipe = replace(recipe, targets=tuple(targets))
    for name in ("model", "data"):
        if not getattr(recipe, name):
            what = "a model" if name == "model" else "images"
            raise UsageError(
                f"compress needs {what}", got=f"no --{name}", do=f"give --{name}, or [{name}] source in a recipe"
            )
    return recipe


def _keeping(recipe: Recipe, auto: bool, max_drop: float | None) -> Recipe:
    """The recipe with `--keep auto` and `--max-drop` in it."""
    from dataclasses import replace

    from gpusq.stages import Sensitivity

    if max_drop is not None:
        recipe = replace(recipe, max_drop=max_drop)
    if auto or (recipe.sensitivity is not None and max_drop is not None):
        found = recipe.sensitivity or Sensitivity()
        recipe = replace(recipe, sensitivity=found if max_drop is None else replace(found, max_drop=max_drop))
    return recipe


def _check_places(*files: Path | None) -> None:
    """Refuse a report that could not be written at the end, before the work begins."""
    import os

    from gpusq.errors import UsageError

    for file in files:
        if file is None:
            continue
        if file.is_dir():
            raise UsageError(
                "a report is written to a file", got=f"{file}, a folder", do=f"give {file / 'report.html'}"
            )
        place = next(p for p in (file, *file.absolute().parents) if p.exists())
        if not os.access(place, os.W_OK) or (place != file and not place.is_dir()):
            got = "no permission to write there" if place == file or place.is_dir() else f"{place}, which is no folder"
            raise UsageError(f"{file} must be writable", got=got, do="choose another path")


def _write(result: Compressed, html: Path | None, report: Path | None) -> None:
    from gpusq.runs import write_report

    write_report(result.report, json_path=report, html_path=html)


def _print(result: Compressed, json: bool) -> None:
    from gpusq.cli.output import print_json, print_line, print_table
    from gpusq.reports import terminal_table

    if json:
        print_json(result.to_json())
    else:
        print_table(terminal_table(result.report))
        for line in _next_lines(result):
            print_line(line)


def _next_lines(result: Compressed) -> list[str]:
    """How each bundle is finished on its device, with its dense twin."""
    found: dict[str, dict[str, Path]] = {}
    for step in result.steps:
        a = step.done.artifact
        if a.kind == "bundle":
            found.setdefault(str(a.manifest.target), {})[step.role] = a.path
    return [
        f"on {target}: gpusq build {pair['model']} --twin {pair['dense twin']} --receipt {target}.receipt.json"
        for target, pair in found.items()
        if set(pair) == {"model", "dense twin"}
    ]
