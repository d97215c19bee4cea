"""What a stage is, and the one function that does the bookkeeping around every stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gpusq.errors import CheckError, StageOrderError, TamperedArtifactError, UsageError
from gpusq.stages.processes import Processes

if TYPE_CHECKING:
    from gpusq.artifacts import Artifact, Parent, Store
    from gpusq.data import DataSpec

Progress = Callable[[str, int, int | None, str], None]
"""progress(what, done, total or None, note): called often; draws nothing itself."""


def silent(what: str, done: int, total: int | None, note: str) -> None:
    """A progress listener that ignores everything."""


@dataclass(frozen=True)
class Context:
    """What a stage may use beside its parameters and its parent; nothing here changes a result.

    data: the image set with `.train` and `.test`, None where the stage needs no images.
    checkpoints: a directory that survives a kill, private to the artifact being made.
    """

    store: Store
    data: DataSpec | None = None
    progress: Progress = silent
    processes: Processes = field(default_factory=Processes.from_environment)
    checkpoints: Path | None = None
    wait_s: float | None = None
    on_wait: Callable[[str], None] | None = None

    def images(self, stage: str) -> DataSpec:
        """The image set. Raises UsageError where the run was given none."""
        if self.data is None:
            raise UsageError(
                f"{stage} needs images", got="no data set", do="give --data DIR (or coco:DIR, voc:DIR, digits)"
            )
        return self.data


def parameter(default: Any, text: str, *, key: bool = True) -> Any:
    """A stage parameter with its help text; key=False where it cannot change the result."""
    return field(default=default, metadata={"help": text, "key": key})


@dataclass(frozen=True)
class Stage:
    """Base of the stages. The fields of a subclass are its parameters; there is no other configuration.

    name: as in recipes and manifests. version: raised when the same parameters give other results.
    takes: artifact kinds accepted as parent (empty: no parent). libraries: distributions that enter the key.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    takes: ClassVar[tuple[str, ...]] = ()
    libraries: ClassVar[tuple[str, ...]] = ()
    distributed: ClassVar[bool] = False  # whether every process of a launch works, or the main one alone

    def gives(self, parent: Artifact | None) -> str:
        """Kind of the artifact that this stage seals."""
        raise TypeError(f"{type(self).__name__} does not say what it gives")

    def uses(self) -> tuple[str, ...]:
        """Distributions whose versions enter the key."""
        return self.libraries

    def target_name(self) -> str | None:
        """Name of the target that the result depends on, or None."""
        return None

    def inputs(self, parent: Artifact | None, context: Context) -> dict[str, str]:
        """Name -> sha256 of everything that enters the result beside the parent and the parameters."""
        return {}

    def requires(self, parent: Artifact | None, context: Context) -> None:
        """Cheap checks before any work; raises a GpusqError."""

    def run(self, parent: Artifact | None, out: Path, context: Context) -> dict[str, Any]:
        """Write the payload into `out`; return small deterministic facts for the manifest."""
        raise TypeError(f"{type(self).__name__} does no work")

    def ensures(self, parent: Artifact | None, out: Path, context: Context) -> None:
        """Check the stage's promise on the files in `out`; raises a CheckError and nothing is sealed."""

    def key_params(self) -> dict[str, Any]:
        """The parameters that enter the key, as plain JSON values."""
        pairs = ((f.name, getattr(self, f.name)) for f in fields(self) if f.metadata.get("key", True))
        return {n: list(v) if isinstance(v, tuple) else v for n, v in pairs}


@dataclass(frozen=True)
class Done:
    """A sealed result. reused: found under its key, not made again. seconds: wall time of this call."""

    artifact: Artifact
    reused: bool
    seconds: float


def toolchain(libraries: tuple[str, ...]) -> dict[str, str]:
    """Installed versions of gpusq and the given distributions; "absent" where one is missing."""
    versions = {}
    for name in ("gpusq", *libraries):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return versions


def check_order(stage: Stage, parent: Artifact | None) -> None:
    """Raise StageOrderError unless `parent` is of a kind that `stage` takes."""
    got = parent.kind if parent else "nothing"
    if not stage.takes and parent is None:
        return
    if parent is None or parent.kind not in stage.takes:
        expected = " or ".join(stage.takes) or "no parent"
        raise StageOrderError(
            f"{stage.name} takes an artifact of kind {expected}",
            got=got,
            do="the order is: prune, qat, export, build; `gpusq show ARTIFACT` tells the kind",
        )


def run_stage(stage: Stage, parent: Artifact | None, context: Context) -> Done:
    """Find or make the artifact of `stage` on `parent`.

    Kind check, key, reuse, staging directory, run, ensures, atomic publish. When anything raises, the
    store is as it was. In a distributed launch every process runs the stage and the main one seals.
    """
    started = time.perf_counter()
    check_order(stage, parent)
    key, facts = _key_of(stage, parent, context)
    with _writer(context):
        context.processes.barrier()  # nobody looks before the main process holds the lock
        found = context.store.find(key)
        context.processes.barrier()  # nobody publishes before everybody has looked
        if found is not None:
            _check_whole(found)
            return Done(found, True, time.perf_counter() - started)
        context.progress(stage.name, 0, None, "starting")
        stage.requires(parent, context)
        artifact = _make(stage, parent, key, facts, context)
    context.progress(stage.name, 1, 1, "sealed")
    return Done(artifact, False, time.perf_counter() - started)


def _check_whole(found: Artifact) -> None:
    """Re-hash an artifact before it is used again. Raises TamperedArtifactError."""
    problems = found.verify()
    if problems:
        raise TamperedArtifactError(
            f"{found.path} is not what was sealed",
            got="; ".join(problems[:3]),
            do="remove that directory and run the same command again to rebuild it",
        )


def _key_of(stage: Stage, parent: Artifact | None, context: Context) -> tuple[str, dict[str, Any]]:
    """The key and everything it is made of, as keyword arguments of `Store.publish`."""
    from gpusq.artifacts import artifact_key

    parts: dict[str, Any] = {
        "stage": stage.name,
        "stage_version": stage.version,
        "params": stage.key_params(),
        "parents": _parents(parent),
        "inputs": stage.inputs(parent, context),
        "target": stage.target_name(),
        "toolchain": toolchain(stage.uses()),
    }
    return artifact_key(**parts), parts


def _parents(parent: Artifact | None) -> tuple[Parent, ...]:
    from gpusq.artifacts import Parent

    if parent is None:
        return ()
    return (Parent(role="model", kind=parent.kind, key=parent.key, digest=parent.digest),)


def _make(stage: Stage, parent: Artifact | None, key: str, parts: dict[str, Any], context: Context) -> Artifact:
    context = replace(context, checkpoints=context.store.checkpoint_dir(key))
    with _tidied(context), _workplace(key, context) as out:
        facts = stage.run(parent, out, context) if context.processes.main or stage.distributed else {}
        if context.processes.main:
            stage.ensures(parent, out, context)
            context.store.publish(out, kind=stage.gives(parent), facts=facts, key=key, **parts)
        context.processes.barrier()
    made = context.store.find(key)
    if made is None:
        raise CheckError(f"{stage.name} sealed nothing under {key[:12]}", do="run the command again")
    return made


@contextmanager
def _tidied(context: Context) -> Iterator[None]:
    """Leave no empty checkpoint directory behind; one with checkpoints stays for the next attempt."""
    try:
        yield
    finally:
        if context.processes.main and context.checkpoints is not None:
            with suppress(OSError):  # not empty, or gone with the publish
                context.checkpoints.rmdir()


@contextmanager
def _writer(context: Context) -> Iterator[None]:
    """The store's lock, held by the main process only."""
    if not context.processes.main:
        yield
        return
    with context.store.lock(wait_s=context.wait_s, on_wait=context.on_wait):
        yield


@contextmanager
def _workplace(key: str, context: Context) -> Iterator[Path]:
    """The staging directory of the main process; a throw-away one for every other."""
    import tempfile

    if context.processes.main:
        with context.store.staging(key) as out:
            yield out
    else:
        with tempfile.TemporaryDirectory(prefix="gpusq-") as name:
            yield Path(name)
