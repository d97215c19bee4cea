"""One sealed directory: bytes leave it only after their hash was checked."""

from __future__ import annotations

import errno
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpusq.artifacts.files import Found, NotPlainFileError, hash_inside, read_inside, walk_payload
from gpusq.artifacts.manifest import MANIFEST_LIMIT_BYTES, MANIFEST_NAME, FileEntry, Manifest, parse, render, tampered
from gpusq.errors import ArtifactError, ArtifactNotFoundError, TamperedArtifactError

_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


@dataclass(frozen=True)
class Artifact:
    """An opened artifact: `path` is its directory, `manifest` was checked against its digest when it was opened."""

    path: Path
    manifest: Manifest

    @property
    def kind(self) -> str:
        """What it is: dense, sparse, quantized, onnx, engine or bundle."""
        return self.manifest.kind

    @property
    def key(self) -> str:
        """sha256 (hex) of the inputs."""
        return self.manifest.key

    @property
    def digest(self) -> str:
        """sha256 (hex) of the manifest, so of every byte."""
        return self.manifest.digest

    def read(self, name: str) -> bytes:
        """The bytes of a payload file, hash-checked in memory; what is returned is what was checked.

        Raises ArtifactNotFoundError for a name not in the manifest, TamperedArtifactError for changed bytes.
        """
        entry = self._entry(name)
        try:
            data = read_inside(self.path, name, entry.size)
        except OSError as error:
            raise self._unreadable(name, error) from error
        self._compare(name, entry, hashlib.sha256(data).hexdigest(), len(data))
        return data

    def read_json(self, name: str) -> Any:
        """A JSON payload file as objects, hash-checked first."""
        data = self.read(name)
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"{self.path / name}: expected JSON", got=str(error)) from error

    def file(self, name: str) -> Path:
        """The path of a payload file after its hash was checked, for libraries that open files themselves.

        Between the check and that opening the file could still be changed; use read() where the bytes can be passed.
        """
        entry = self._entry(name)
        try:
            sha256, size = hash_inside(self.path, name)
        except OSError as error:
            raise self._unreadable(name, error) from error
        self._compare(name, entry, sha256, size)
        return self.path / name

    def verify(self) -> list[str]:
        """Every byte against the seal. Returns problems, empty when whole; each line starts with its class:

        "changed" (other bytes, a link or a device), "torn" (fewer bytes), "missing", "extra", "unreadable",
        "renamed" (the directory).
        """
        problems = self._glance()
        for name in sorted(self.manifest.files.keys() - problems.keys()):
            try:
                self.file(name)
            except TamperedArtifactError:
                problems[name] = f"changed: {name}"
            except ArtifactError as error:
                problems[name] = f"unreadable: {name} ({error.got})"
        return list(problems.values())

    def glance(self) -> list[str]:
        """The problems that show without reading payload bytes: names, kinds of files, sizes, artifact.json."""
        return list(self._glance().values())

    def _glance(self) -> dict[str, str]:
        try:
            found = {entry.name: entry for entry in walk_payload(self.path)}
        except OSError as error:
            return {MANIFEST_NAME: f"missing: {self.path} ({error.strerror})"}
        problems = _seal_problems(self)
        for name, entry in sorted(self.manifest.files.items()):
            problem = _size_problem(name, entry, found.get(name))
            if problem:
                problems[name] = problem
        for name in sorted(found.keys() - self.manifest.files.keys() - {MANIFEST_NAME}):
            problems[name] = f"extra: {ascii(name)[1:-1]}"
        return problems

    def _entry(self, name: str) -> FileEntry:
        entry = self.manifest.files.get(name)
        if entry is None:
            raise ArtifactNotFoundError(
                f"{self.path} has no file {name!r}", got=f"files: {', '.join(sorted(self.manifest.files)) or 'none'}"
            )
        return entry

    def _compare(self, name: str, entry: FileEntry, sha256: str, size: int) -> None:
        if size != entry.size:
            shown = f"{size} bytes" if size < entry.size else "more bytes"
            raise tampered(self.path, f"{name} has {shown}, {entry.size} were sealed")
        if sha256 != entry.sha256:
            raise tampered(self.path, f"{name} has sha256 {sha256[:12]}..., {entry.sha256[:12]}... was sealed")

    def _unreadable(self, name: str, error: OSError) -> ArtifactError:
        return _unreadable(self.path, name, error)


def _unreadable(path: Path, name: str, error: OSError) -> ArtifactError:
    if isinstance(error, NotPlainFileError):
        return tampered(path, str(error))
    if error.errno in _GONE:
        return tampered(path, f"{name} is missing or a link")
    return ArtifactError(f"{path / name}: cannot be read", got=str(error.strerror), do="check its permissions and disk")


def _size_problem(name: str, entry: FileEntry, at: Found | None) -> str:
    if at is None:
        return f"missing: {name}"
    if at.refused:
        return f"changed: {name} ({at.refused})"
    word = "torn" if at.size < entry.size else "changed"
    return f"{word}: {name} ({at.size} bytes, {entry.size} were sealed)" if at.size != entry.size else ""


def _seal_problems(artifact: Artifact) -> dict[str, str]:
    problems = {}
    try:
        data = read_inside(artifact.path, MANIFEST_NAME, MANIFEST_LIMIT_BYTES)
        if data != render(artifact.manifest):
            problems[MANIFEST_NAME] = f"changed: {MANIFEST_NAME}"
    except OSError as error:
        problems[MANIFEST_NAME] = f"missing: {MANIFEST_NAME} ({error.strerror or error})"
    if renamed(artifact.path, artifact.manifest):
        problems["."] = f"renamed: {artifact.path.name} holds {artifact.manifest.directory_name}"
    return problems


def renamed(path: Path, manifest: Manifest) -> bool:
    """Whether the directory carries the name of another artifact. Free names (a copy called "best") are fine."""
    sealed_name = re.fullmatch(r"[a-z][a-z0-9_-]*-[0-9a-f]{64}", path.name)
    return sealed_name is not None and path.name != manifest.directory_name


def open_artifact(path: Path) -> Artifact:
    """Open the sealed directory at path; checks artifact.json against its digest, not yet the payload.

    Raises ArtifactNotFoundError (no directory), NewerSchemaError, TamperedArtifactError (with the mend).
    """
    path = Path(path).absolute()
    if not path.is_dir():
        raise ArtifactNotFoundError(f"{path}: expected the directory of an artifact", do="list them with: gpusq list")
    try:
        data = read_inside(path, MANIFEST_NAME, MANIFEST_LIMIT_BYTES)
    except OSError as error:
        raise _unreadable(path, MANIFEST_NAME, error) from error
    manifest = parse(data, path)
    if renamed(path, manifest):
        raise tampered(path, f"this directory holds {manifest.directory_name[:24]}..., not what its name says")
    return Artifact(path, manifest)
