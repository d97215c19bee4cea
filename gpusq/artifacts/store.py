"""The store: one writer at a time seals artifacts into it; anybody reads; nothing half-made is ever visible."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gpusq.artifacts import lookup, rows
from gpusq.artifacts.artifact import Artifact, open_artifact
from gpusq.artifacts.durable import (
    SPACE_CODES,
    make_directories,
    move_directory,
    refused_code,
    remove_tree,
    store_full,
    sync_directories,
    tree_bytes,
    write_new,
    writing,
)
from gpusq.artifacts.files import hash_inside, walk_payload
from gpusq.artifacts.layout import Layout, names_in
from gpusq.artifacts.lock import StoreLock
from gpusq.artifacts.manifest import MANIFEST_NAME, FileEntry, Manifest, Parent, check_names, render, seal, tampered
from gpusq.errors import ArtifactError, StoreError


class Store:
    """A directory of sealed artifacts. Reading never writes and never waits; the first write creates it.

    In a run of many processes only one (rank 0) takes the lock, stages and publishes; the others may read artifacts
    and checkpoints meanwhile.
    """

    def __init__(self, root: Path | str) -> None:
        """Raises NewerSchemaError for a store of a newer gpusq, StoreError for a store.json that is not readable."""
        self.root = Path(root).absolute()
        self._at = Layout(self.root)
        self._at.check()
        self._lock = StoreLock(self.root)

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

    # Writing

    @contextmanager
    def lock(self, wait_s: float | None = None, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
        """Be the one writer for the block; re-entrant. Taking it removes what a dead owner left in staging.

        If busy: on_wait gets one line that says who holds the store, then this waits, at most wait_s seconds
        (None: without end; 0: not at all). Raises StoreBusyError, StoreFullError.
        """
        with self._writer(wait_s, on_wait):
            yield

    @contextmanager
    def staging(self, key: str) -> Iterator[Path]:
        """A fresh directory for the payload of `key`; gone after the block unless it was published. Holds the lock.

        A write inside the block that the file system refuses becomes StoreFullError.
        """
        self._at.folder(self._at.staging, key)
        with self._writer(None, None):
            path = self._at.staging / f"{key[:16]}-{secrets.token_hex(4)}"
            with writing(path):
                make_directories(path)
            try:
                yield path
            except Exception as error:
                code = self._refused_below(path, error)
                if code is not None:
                    raise store_full(code, path) from error
                raise
            finally:
                remove_tree(path)

    def publish(
        self,
        staging: Path,
        *,
        kind: str,
        stage: str,
        stage_version: int,
        params: Mapping[str, Any],
        parents: Sequence[Parent],
        inputs: Mapping[str, str],
        target: str | None,
        toolchain: Mapping[str, str],
        facts: Mapping[str, Any],
        key: str,
    ) -> Artifact:
        """Seal the payload in `staging` and make it visible in one step; needs the lock; drops the key's checkpoint.

        Where the key is published already, that artifact is returned and the payload is dropped: the first one wins.
        Raises StoreFullError (the store is unchanged, the payload still staged), ArtifactError for payload that is
        not plain files with safe names, TamperedArtifactError where the key's artifact is broken.
        """
        self._require_staged(staging)
        existing = self.find(key)
        if existing is not None:
            remove_tree(staging)
            return existing
        _refuse_odd_payload(staging)
        with writing(self._at.artifacts, needed_bytes=tree_bytes(staging)):
            files = {found.name: _hashed_and_synced(staging, found.name) for found in walk_payload(staging)}
            manifest = seal(
                kind=kind,
                stage=stage,
                stage_version=stage_version,
                params=params,
                parents=parents,
                inputs=inputs,
                target=target,
                toolchain=toolchain,
                facts=facts,
                files=files,
                key=key,
            )
            path = self._put(staging, manifest)
        remove_tree(self._at.checkpoints / key)
        return Artifact(path, manifest)

    def checkpoint_dir(self, key: str) -> Path:
        """The directory for checkpoints of unfinished work on `key`, created; survives kills; publish removes it."""
        path = self._at.folder(self._at.checkpoints, key)
        self._at.prepare()
        with writing(path):
            make_directories(path)
        return path

    def add_report(self, digest: str, name: str, rows_: Sequence[Mapping[str, Any]]) -> Path:
        """Put report rows beside an artifact, replacing those of the same name in one step; touches no seal."""
        folder = self._at.folder(self._at.reports, digest)
        data = rows.encoded(name, rows_)
        self._at.prepare()
        return rows.write(folder, name, data)

    def gc(self, *, unfinished: bool = False, on_wait: Callable[[str], None] | None = None) -> int:
        """Remove staging leftovers, half-written reports and checkpoints of published keys; takes the lock.

        unfinished: also remove the checkpoints of work that was not finished (it then starts over).
        on_wait: told for whom this waits, where the store is in use.
        Returns the bytes freed.
        """
        with self._writer(None, on_wait) as freed_on_entry:
            published = {name[-64:] for name in names_in(self._at.artifacts)}
            dead = [
                self._at.checkpoints / key for key in names_in(self._at.checkpoints) if unfinished or key in published
            ]
            dead += rows.leftovers(self._at.reports) + rows.abandoned(self.root)
            return freed_on_entry + sum(remove_tree(path) for path in dead)

    # Reading

    def find(self, key: str) -> Artifact | None:
        """The artifact of this key, its seal and file sizes checked (payload hashes are checked on reading).

        None where there is none. Raises TamperedArtifactError, NewerSchemaError for one that is not whole.
        """
        self._at.folder(self._at.artifacts, key)
        names = [name for name in names_in(self._at.artifacts) if name.endswith(f"-{key}")]
        if not names:
            return None
        path = self._at.artifacts / names[0]
        if len(names) > 1:
            raise tampered(path, f"{len(names)} directories under one key: {', '.join(names)}")
        artifact = open_artifact(path)
        problems = artifact.glance()
        if problems:
            raise tampered(path, "; ".join(problems[:5]))
        return artifact

    def artifacts(self) -> list[Artifact]:
        """All artifacts that open, oldest first. Those that do not are named by verify_all()."""
        return lookup.scan(self._at.artifacts)[0]

    def verify_all(self) -> dict[str, list[str]]:
        """Directory name -> problems, for every entry of artifacts/; [] when whole. Reads every byte.

        Also says where a parent in the store is not the one that was sealed against. Staging leftovers,
        checkpoints and reports are not part of any seal.
        """
        return lookup.verify_all(self._at.artifacts)

    def resolve(self, ref: str | Path) -> Artifact:
        """The artifact that `ref` names: a path, or a unique prefix (6 or more hex digits) of a digest or key,

        alone or as <kind>-<prefix>. Raises ArtifactNotFoundError with near candidates, or where it is ambiguous.
        """
        return lookup.resolve(self._at.artifacts, str(ref))

    def children(self, digest: str) -> list[Artifact]:
        """The artifacts made directly from this one, oldest first."""
        return [a for a in self.artifacts() if any(parent.digest == digest for parent in a.manifest.parents)]

    def ancestors(self, artifact: Artifact) -> list[Artifact]:
        """All that this one was made from, nearest first; those no longer in the store are left out."""
        return lookup.ancestors(self.artifacts(), artifact)

    def reports(self, digest: str) -> dict[str, list[dict[str, Any]]]:
        """Report name -> rows, for one artifact. Raises ArtifactError for a report that does not parse."""
        return rows.read_all(self._at.folder(self._at.reports, digest))

    # Inside

    @contextmanager
    def _writer(self, wait_s: float | None, on_wait: Callable[[str], None] | None) -> Iterator[int]:
        # Yields the bytes of dead staging that were removed on entry.
        if not self._lock.held:
            self._at.prepare()
        with self._lock.hold(wait_s, on_wait) as fresh:
            dead = names_in(self._at.staging) if fresh else []
            yield sum(remove_tree(self._at.staging / name) for name in dead)

    def _require_staged(self, staging: Path) -> None:
        if not self._lock.held:
            raise StoreError(f"{self.root}: publishing needs the lock", do="publish inside Store.lock or Store.staging")
        if staging.parent != self._at.staging or staging.is_symlink() or not staging.is_dir():
            raise StoreError(f"expected a directory made by Store.staging in {self._at.staging}", got=str(staging))

    def _put(self, staging: Path, manifest: Manifest) -> Path:
        final = self._at.artifacts / manifest.directory_name
        try:
            write_new(staging / MANIFEST_NAME, render(manifest))
            sync_directories(staging)
            make_directories(self._at.artifacts)
            move_directory(staging, final)
        except BaseException:
            with suppress(OSError):  # so that publishing the same staging again starts clean
                (staging / MANIFEST_NAME).unlink(missing_ok=True)
            raise
        return final

    def _refused_below(self, path: Path, error: Exception) -> int | None:
        """The errno where the error is a write refused in staging, not a failure to read something elsewhere."""
        code = refused_code(error)
        name = getattr(error, "filename", None)
        if name is None:  # a write to an open file names none, but a full disk is never a reader's error
            return code if code in SPACE_CODES else None
        return code if str(name).startswith(str(path)) else None


def _hashed_and_synced(staging: Path, name: str) -> FileEntry:
    sha256, size = hash_inside(staging, name, at_end=os.fsync)
    return FileEntry(sha256=sha256, size=size)


def _refuse_odd_payload(staging: Path) -> None:
    with writing(staging):
        found = list(walk_payload(staging))
    odd = [f"{entry.name!a}: {entry.refused}" for entry in found if entry.refused]
    if odd:
        raise ArtifactError(
            f"{staging}: payload must be plain files, copied and not linked", got="; ".join(odd[:5]), do="copy them"
        )
    try:
        check_names([entry.name for entry in found])
    except ValueError as error:
        raise ArtifactError(f"{staging}: cannot seal this payload", got=str(error), do="rename it") from error
