"""`gpusq show | log | verify | list | gc | report`: look at what a store holds. None of them needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpusq.cli.options import DEFAULT_STORE, Json, Reference, StoreDir, artifact_of, open_store

if TYPE_CHECKING:
    from gpusq.artifacts import Artifact
    from gpusq.reports import Report

OptionalReference = Annotated[str | None, typer.Argument(help="Artifact or `latest`; nothing: the whole store.")]
Run = Annotated[str, typer.Argument(help="`latest`, a run's name, a report file (.json), or an artifact.")]
ReportTarget = Annotated[
    list[str] | None, typer.Option("--target", "-t", help="Of an artifact's report: cpu, a100, agx-orin, ...")
]
Html = Annotated[Path | None, typer.Option("--html", help="Write the report page here.")]
JsonPath = Annotated[Path | None, typer.Option("--report", help="Write the report as JSON here.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("show", help="What an artifact is: parameters, parents, files, facts.")(show)
    app.command("log", help="Where an artifact came from: its ancestors, oldest first.")(log)
    app.command("verify", help="Re-hash every byte of one artifact or of the whole store; exit 1 on a problem.")(verify)
    app.command("list", help="The artifacts of a store.")(list_)
    app.command("gc", help="Remove leftovers of killed runs; artifacts are kept.")(gc)
    app.command("report", help="Print a report, or write it as one HTML page.")(report)


def show(artifact: Reference, store: StoreDir = DEFAULT_STORE, json: Json = False) -> None:
    """What an artifact is."""
    from gpusq.cli.output import print_json, print_line, refusals

    with refusals(json):
        found = artifact_of(artifact, store)
        manifest = found.manifest.model_dump(mode="json")
        if json:
            print_json({"path": str(found.path), **manifest})
            return
        print_line(f"{found.kind}  {found.path}")
        for line in _lines(manifest):
            print_line(line)


def _lines(manifest: dict[str, Any]) -> list[str]:
    lines = []
    for name in ("digest", "key", "stage", "stage_version", "target"):
        lines.append(f"  {name:14} {manifest[name]}")
    for name in ("params", "inputs", "toolchain", "facts"):
        lines += [f"  {name:14} {k} = {_short(v)}" for k, v in manifest[name].items()]
    lines += [f"  {'parent':14} {p['kind']} {p['digest'][:16]}" for p in manifest["parents"]]
    lines += [
        f"  {'file':14} {n}  {f['size']:,} bytes  sha256 {f['sha256'][:16]}" for n, f in manifest["files"].items()
    ]
    return lines


def _short(value: Any, limit: int = 96) -> str:
    text = str(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def log(artifact: Reference, store: StoreDir = DEFAULT_STORE, json: Json = False) -> None:
    """Where an artifact came from."""
    from gpusq.cli.output import print_json, print_line, refusals

    with refusals(json):
        chain = _chain(artifact_of(artifact, store), store)
        if json:
            print_json({"lineage": chain})
            return
        for entry in chain:
            state = "" if entry["present"] else "  (not in this store)"
            print_line(f"{entry['stage']:8} {entry['kind']:10} {entry['digest'][:16]}{state}")


def _chain(artifact: Artifact, store: Path) -> list[dict[str, Any]]:
    held = {a.digest: a for a in open_store(store).artifacts()}
    chain: list[dict[str, Any]] = []
    pending: list[tuple[str, str, Artifact | None]] = [(artifact.digest, artifact.kind, artifact)]
    while pending:
        digest, kind, found = pending.pop()
        entry = {
            "digest": digest,
            "kind": kind,
            "stage": found.manifest.stage if found else "?",
            "present": bool(found),
        }
        chain.append({**entry, "path": str(found.path) if found else None})
        parents = found.manifest.parents if found else ()
        pending += [(p.digest, p.kind, held.get(p.digest)) for p in parents]
    return chain[::-1]


def verify(artifact: OptionalReference = None, store: StoreDir = DEFAULT_STORE, json: Json = False) -> None:
    """Re-hash every byte."""
    from gpusq.cli.output import print_json, print_line, refusals

    with refusals(json):
        problems, count = _problems(artifact, store)
        if json:
            print_json({"checked": count, "problems": problems})
        else:
            for problem in problems:
                print_line(problem)
            print_line(f"{count} artifacts checked, {len(problems)} problems")
        if problems:
            raise SystemExit(1)


def _problems(reference: str | None, store: Path) -> tuple[list[str], int]:
    if reference is not None:
        found = artifact_of(reference, store)
        return [f"{found.path.name}: {p}" for p in found.verify()], 1
    opened = open_store(store)
    found_problems = opened.verify_all()
    lines = [f"{name}: {p}" for name, problems in found_problems.items() for p in problems]
    return lines, len(found_problems)


def list_(store: StoreDir = DEFAULT_STORE, json: Json = False) -> None:
    """The artifacts of a store."""
    from gpusq.cli.output import print_json, print_line, refusals

    with refusals(json):
        artifacts = open_store(store).artifacts()
        rows: list[dict[str, Any]] = [
            {
                "kind": a.kind,
                "stage": a.manifest.stage,
                "digest": a.digest,
                "target": a.manifest.target,
                "path": str(a.path),
            }
            for a in artifacts
        ]
        if json:
            print_json({"artifacts": rows})
            return
        for row in rows:
            print_line(f"{row['kind']:10} {row['digest'][:16]}  {row['target'] or '':12} {row['path']}")
        print_line(f"{len(rows)} artifacts in {store}")


def gc(store: StoreDir = DEFAULT_STORE, json: Json = False) -> None:
    """Remove leftovers of killed runs."""
    from gpusq.cli.output import print_json, print_line, refusals, say

    with refusals(json):
        freed = open_store(store).gc(on_wait=say)
        if json:
            print_json({"freed_bytes": freed})
        else:
            print_line(f"{freed:,} bytes freed in {store}")


def report(
    run: Run = "latest",
    html: Html = None,
    out: JsonPath = None,
    target: ReportTarget = None,
    store: StoreDir = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Print or write a report."""
    from gpusq.cli.output import print_json, print_line, print_table, refusals
    from gpusq.runs import write_report

    with refusals(json):
        found = _report_of(run, store, tuple(target or ()))
        for path in write_report(found, json_path=out, html_path=html):
            if not json:
                print_line(f"written: {path}")
        if json:
            print_json(found.model_dump(mode="json"))
        elif html is None and out is None:
            from gpusq.reports import terminal_table

            print_table(terminal_table(found))


def _report_of(run: str, store: Path, targets: tuple[str, ...]) -> Report:
    """The report of a run, or of one artifact and what it was made from."""
    from gpusq.runs import is_run, read_report

    if is_run(run, store):
        return read_report(run, store)
    from gpusq.cli.options import run_context
    from gpusq.pipeline import report_of

    with run_context(store, "", quiet=False, wait_s=None) as context:
        return report_of(artifact_of(run, store), targets, context)
