"""An engine directory: written whole or not at all, sealed like any artifact, so that `gpusq verify` reads it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpusq.artifacts import MANIFEST_NAME, Artifact, FileEntry, Manifest, Parent, artifact_key, open_artifact
from gpusq.artifacts.durable import (
    make_directories,
    move_directory,
    remove_tree,
    sync_directories,
    write_new,
    writing,
)
from gpusq.artifacts.manifest import render, seal
from gpusq.errors import ArtifactError, UsageError

STAGE, STAGE_VERSION, KIND = "build", 1, "engine"


def check_out(out: Path, bundles: Sequence[Path]) -> None:
    """Raise UsageError unless an engine may be written to `out`: outside the bundles, and nothing else is there."""
    for bundle in bundles:
        if bundle.resolve() in (out.resolve(), *out.resolve().parents):
            raise UsageError("the engine is written outside the bundle", got=str(out), do="choose another --out")
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError("an engine is written into a directory", got=f"{out}, a file or a link", do="choose another")
    if out.is_dir() and any(out.iterdir()) and not _is_engine(out):
        raise UsageError(
            "an engine is written into a new or empty directory, or over an earlier engine",
            got=f"{out} with other files",
            do="choose another --out",
        )


def seal_engine(
    out: Path,
    files: Mapping[str, bytes],
    *,
    params: Mapping[str, Any],
    parent: Artifact,
    inputs: Mapping[str, str],
    target: str,
    toolchain: Mapping[str, str],
    facts: Mapping[str, Any],
) -> Artifact:
    """Write `files` and artifact.json to `out` in one step; an earlier engine there is replaced.

    Raises StoreFullError or StoreError where the file system refuses; `out` is then as it was.
    """
    role = "bundle" if parent.kind == "bundle" else "model"
    described: dict[str, Any] = {
        "stage": STAGE,
        "stage_version": STAGE_VERSION,
        "params": dict(params),
        "parents": (Parent(role=role, kind=parent.kind, key=parent.key, digest=parent.digest),),
        "inputs": dict(inputs),
        "target": target,
        "toolchain": dict(toolchain),
    }
    entries = {name: FileEntry(sha256=hashlib.sha256(d).hexdigest(), size=len(d)) for name, d in files.items()}
    manifest = seal(kind=KIND, facts=facts, files=entries, key=artifact_key(**described), **described)
    with writing(out, needed_bytes=sum(len(data) for data in files.values())):
        _write(out, files, manifest)
    return open_artifact(out)


def _write(out: Path, files: Mapping[str, bytes], manifest: Manifest) -> None:
    make_directories(out.absolute().parent)
    part = out.absolute().with_name(f".{out.name}-{secrets.token_hex(4)}")
    make_directories(part)
    try:
        for name, data in {**files, MANIFEST_NAME: render(manifest)}.items():
            write_new(part / name, data)
        sync_directories(part)
        remove_tree(out)  # checked before: nothing, an empty directory, or an earlier engine
        move_directory(part, out.absolute())
    finally:
        with suppress(OSError):
            remove_tree(part)


def _is_engine(directory: Path) -> bool:
    try:
        return open_artifact(directory).kind == KIND
    except ArtifactError:
        return False
