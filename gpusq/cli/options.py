"""Options that several commands share, and the context made from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gpusq.artifacts import Artifact, Store
    from gpusq.data import DataSpec
    from gpusq.stages.stage import Context

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
StoreDir = Annotated[Path, typer.Option("--store", envvar="GPUSQ_STORE", help="Directory of the artifact store.")]
Data = Annotated[str, typer.Option("--data", help="Image folder, coco:DIR, voc:DIR, fashion-mnist[:DIR] or digits.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")]
Wait = Annotated[
    float | None,
    typer.Option("--wait", min=0, help="Seconds to wait for a store in use (default: as long as it takes)."),
]
Reference = Annotated[
    str,
    typer.Argument(
        help="Artifact: path, digest or key prefix (6 or more), KIND-PREFIX, or `latest` (what the latest run made)."
    ),
]

DEFAULT_STORE = Path("gpusq-store")


@contextmanager
def run_context(store: Path, data: str, quiet: bool, wait_s: float | None) -> Iterator[Context]:
    """The context of a run, with progress that is closed at the end; only the main process prints."""
    from gpusq.artifacts import Store
    from gpusq.cli.output import progress_lines, say
    from gpusq.data import open_data
    from gpusq.stages.processes import Processes
    from gpusq.stages.stage import Context

    processes = Processes.from_environment()
    images = open_data(data) if data else None
    with progress_lines(quiet or not processes.main) as progress:
        progress("gpusq", 0, None, "opening images and libraries")
        _report_hashing(images, progress)
        yield Context(
            Store(store), images, progress=progress, processes=processes, wait_s=wait_s, on_wait=None if quiet else say
        )


def _report_hashing(images: DataSpec | None, progress: Callable[[str, int, int | None, str], None]) -> None:
    """Show progress while the files of a folder are hashed for the keys, and what was found in annotations."""
    from gpusq.data import BoxSet, FolderSet

    for split in (images.train, images.test) if images else ():
        if isinstance(split, BoxSet) and (found := split.findings.sentence()):
            progress(f"{split.name} {split.split}", 1, 1, found)
        if isinstance(split, FolderSet):
            split.on_hash = lambda done, total: progress("gpusq", done, total, "hashing images")


def artifact_of(reference: str, store_dir: Path) -> Artifact:
    """The artifact that a reference names: a path anywhere, a prefix within the store, or `latest`.

    `latest`: the compressed artifact of the latest run, of its first target.
    """
    if (Path(reference) / "artifact.json").is_file():
        from gpusq.artifacts import open_artifact

        return open_artifact(Path(reference))
    opened = open_store(store_dir)
    if reference == "latest":
        from gpusq.runs import artifact_of_run

        reference = artifact_of_run(reference, store_dir)
    return opened.resolve(reference)


def open_store(store_dir: Path) -> Store:
    """The existing store at `store_dir`. Raises ArtifactNotFoundError where there is none."""
    from gpusq.artifacts import Store
    from gpusq.errors import ArtifactNotFoundError

    if not store_dir.is_dir():
        raise ArtifactNotFoundError(
            f"there is no store at {store_dir}", do="give --store DIR, or run `gpusq compress` first, which makes one"
        )
    return Store(store_dir)
