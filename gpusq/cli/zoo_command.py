"""`gpusq zoo`: every model family through every step, at a small size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpusq.cli.options import Json

if TYPE_CHECKING:
    from gpusq.zoo import Family, FamilyResult

Only = Annotated[
    list[str] | None, typer.Option("--family", "-f", help="This family alone, e.g. DETR; may be repeated.")
]
Seconds = Annotated[float, typer.Option("--seconds", min=1, help="Time limit of one family.")]
Memory = Annotated[float, typer.Option("--memory", min=0, help="Address space of one family in GiB, 0 for no limit.")]
Out = Annotated[Path | None, typer.Option("--out", help="Also write zoo.json and zoo.md into this folder.")]


HELP = (
    "Take every model family, as a small model, through prune, INT8, export, parity and an engine build.\n\n"
    "Weights are fresh, but detectors that choose their queries by score are trained briefly first. "
    "Exit 1 where a family stops at a step. Needs the host and rtx extras."
)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("zoo", help=HELP)(zoo)


def zoo(
    family: Only = None, seconds: Seconds = 900.0, memory: Memory = 24.0, out: Out = None, json: Json = False
) -> None:
    """Take the families through every step and tell the table; HELP says the rest. Raises SystemExit(1)."""
    from gpusq.cli.output import print_json, print_line, refusals

    with refusals(json):
        from gpusq.zoo import Limits, run_conditions, run_zoo, to_json, to_markdown

        chosen, conditions = _chosen(family), run_conditions()
        results = run_zoo(chosen, Limits(seconds, memory), _told)
        data = to_json(results, {**conditions, "seconds_limit": seconds, "memory_limit_gib": memory})
        if out is not None:
            _write(out, data, to_markdown(results))
        if json:
            print_json(data)
        else:
            print_line(to_markdown(results))
        if not all(result.passed for result in results):
            raise SystemExit(1)


def _chosen(names: list[str] | None) -> tuple[Family, ...]:
    from gpusq.errors import UsageError
    from gpusq.zoo import FAMILIES

    known = {family.name.lower(): family for family in FAMILIES}
    for name in names or ():
        if name.lower() not in known:
            raise UsageError(
                "zoo: a family is one of " + ", ".join(family.name for family in FAMILIES),
                got=repr(name),
                do="choose one of them",
            )
    return tuple(known[name.lower()] for name in names) if names else FAMILIES


def _told(result: FamilyResult) -> None:
    from gpusq.cli.output import say

    say(f"{result.family}: {'every step' if result.passed else result.why} ({result.seconds:.0f} s)")


def _write(folder: Path, data: object, text: str) -> None:
    import json

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "zoo.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    (folder / "zoo.md").write_text(text, encoding="utf-8")
