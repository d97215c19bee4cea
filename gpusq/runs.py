"""Reports of whole runs: kept in the store under `runs/`, read back, written as JSON and as a page. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gpusq.artifacts.durable import replace_file, writing
from gpusq.errors import ArtifactNotFoundError, UsageError

if TYPE_CHECKING:
    from gpusq.reports import Report


def keep_report(report: Report, store: Path, name: str) -> Path:
    """Write a report to STORE/runs/NAME.json, atomically, and point `latest` at it."""
    from gpusq.reports import report_to_json

    folder = store / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    _put(path, report_to_json(report))
    _put(folder / "latest.txt", name + "\n")
    return path


def is_run(run: str, store: Path) -> bool:
    """Whether `run` is "latest", the path of a .json file, or the name of a run kept in the store."""
    return run == "latest" or run.endswith(".json") or (store / "runs" / f"{run}.json").is_file()


def read_report(run: str, store: Path) -> Report:
    """A report by file, run name, or "latest". Raises ArtifactNotFoundError that lists the runs of the store."""
    from gpusq.reports import report_from_json

    path = Path(run) if run.endswith(".json") else store / "runs" / f"{_latest(store) if run == 'latest' else run}.json"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        known = sorted(p.stem for p in (store / "runs").glob("*.json"))
        do = f"use one of: {', '.join(known)}" if known else f"run `gpusq compress --store {store}` first"
        raise ArtifactNotFoundError(f"no report {run!r} in {store}", got=str(error), do=do) from error
    return report_from_json(text, str(path))


def artifact_of_run(run: str, store: Path) -> str:
    """Digest of what a run made: the first artifact that its report judges, else the last one it lists.

    Raises ArtifactNotFoundError where there is no such run or it lists none.
    """
    report = read_report(run, store)
    digests = [*(v.digest for v in report.verdicts), *(entry.digest for entry in reversed(report.lineage))]
    if not digests:
        raise ArtifactNotFoundError(
            f"run {run!r} must have made an artifact", got="a report without any", do="name one: gpusq list"
        )
    return digests[0]


def write_report(report: Report, *, json_path: Path | None, html_path: Path | None) -> list[Path]:
    """Write the report where asked; returns the paths written. Raises UsageError for a folder, StoreError."""
    from gpusq.reports import html_page, report_to_json

    for path, name in ((json_path, "report.json"), (html_path, "report.html")):
        if path is not None and path.is_dir():
            raise UsageError("a report is written to a file", got=f"{path}, a folder", do=f"give {path / name}")
    written = []
    for path, text in ((json_path, report_to_json), (html_path, html_page)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            _put(path, text(report))
            written.append(path)
    return written


def _latest(store: Path) -> str:
    try:
        return (store / "runs" / "latest.txt").read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ArtifactNotFoundError(
            f"{store} holds no run", got=str(error), do=f"run `gpusq compress --store {store}` first"
        ) from error


def _put(path: Path, text: str) -> None:
    """Write atomically. Raises StoreFullError."""
    with writing(path):
        replace_file(path, text.encode())
