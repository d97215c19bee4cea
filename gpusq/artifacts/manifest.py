"""What an artifact says about itself: `artifact.json`, its key (from the inputs) and its digest (over everything)."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from gpusq.artifacts.canonical import plain, pretty_json, sha256_of
from gpusq.artifacts.files import why_bad_name
from gpusq.errors import ArtifactError, NewerSchemaError, TamperedArtifactError

SCHEMA_VERSION = 1
MANIFEST_NAME = "artifact.json"
MANIFEST_LIMIT_BYTES = 16 << 20

Hex64 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Kind = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Frozen):
    """One payload file: sha256 (hex) and size in bytes."""

    sha256: Hex64
    size: int = Field(ge=0)


class Parent(_Frozen):
    """An artifact this one was made from; role says as what ("model", "teacher", "dense twin")."""

    role: str
    kind: Kind
    key: Hex64
    digest: Hex64


class Manifest(_Frozen):
    """The content of artifact.json. Holds no time and no path, so equal work gives equal bytes.

    inputs: name -> sha256 of what entered beside the parents (data set, recipe, calibration manifest, source file).
    facts: small deterministic results. files: payload name (relative, "/" between parts) -> entry.
    key: from the inputs, see artifact_key. digest: over every other field, so over every payload sha256 too.
    """

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1)
    kind: Kind
    stage: str
    stage_version: int
    params: dict[str, Any]
    parents: tuple[Parent, ...]
    inputs: dict[str, str]
    target: str | None
    toolchain: dict[str, str]
    facts: dict[str, Any]
    files: dict[str, FileEntry]
    key: Hex64
    digest: Hex64

    @field_validator("files")
    @classmethod
    def _names_are_safe(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        check_names(files)
        return files

    @property
    def directory_name(self) -> str:
        """The name of this artifact's directory in a store: <kind>-<key>."""
        return f"{self.kind}-{self.key}"


def check_names(names: Sequence[str] | Mapping[str, object]) -> None:
    """ValueError for a payload name that leaves the directory, is reserved, or equals another but for case."""
    seen: dict[str, str] = {}
    for name in names:
        reason = "reserved" if name == MANIFEST_NAME else why_bad_name(name)
        if reason:
            raise ValueError(f"payload name {name!a}: {reason}")
        twin = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if twin != name:
            raise ValueError(f"payload names {twin!r} and {name!r} differ only by case or Unicode form")


def artifact_key(
    stage: str,
    stage_version: int,
    params: Mapping[str, Any],
    parents: Sequence[Parent],
    inputs: Mapping[str, str],
    target: str | None,
    toolchain: Mapping[str, str],
) -> str:
    """The name of work before it is done: sha256 (hex) over all that decides the result.

    Parents count by role and digest, in order; the order of mapping keys does not count.
    Raises ArtifactError where a value is not JSON.
    """
    return sha256_of(
        {
            "key_version": 1,
            "stage": stage,
            "stage_version": stage_version,
            "params": params,
            "parents": [[parent.role, parent.digest] for parent in parents],
            "inputs": inputs,
            "target": target,
            "toolchain": toolchain,
        },
        where=f"{stage}: key",
    )


def manifest_digest(fields: Mapping[str, Any]) -> str:
    """sha256 (hex) over the canonical JSON of a manifest's fields without `digest`."""
    return sha256_of({name: value for name, value in fields.items() if name != "digest"}, where="manifest")


def seal(
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
    files: Mapping[str, FileEntry],
    key: str,
) -> Manifest:
    """A manifest with its digest. Raises ArtifactError where a field is not valid or the key is not theirs."""
    expected = artifact_key(stage, stage_version, params, parents, inputs, target, toolchain)
    if key != expected:
        raise ArtifactError(
            f"{stage}: the key must be artifact_key() of the fields that are sealed", got=f"{key}, not {expected}"
        )
    fields = plain(
        {
            "schema_version": SCHEMA_VERSION,
            "kind": kind,
            "stage": stage,
            "stage_version": stage_version,
            "params": params,
            "parents": [parent.model_dump() for parent in parents],
            "inputs": inputs,
            "target": target,
            "toolchain": toolchain,
            "facts": facts,
            "files": {name: entry.model_dump() for name, entry in files.items()},
            "key": key,
        },
        where=f"{stage}: manifest",
    )
    try:
        return Manifest.model_validate({**fields, "digest": manifest_digest(fields)})
    except ValidationError as error:
        raise ArtifactError(f"{stage}: cannot seal this artifact", got=first_reason(error)) from error


def render(manifest: Manifest) -> bytes:
    """The exact bytes of artifact.json. Raises ArtifactError past the size limit."""
    data = pretty_json(manifest.model_dump(), where="manifest")
    if len(data) > MANIFEST_LIMIT_BYTES:
        raise ArtifactError(
            f"{manifest.stage}: artifact.json is limited to {MANIFEST_LIMIT_BYTES} bytes",
            got=str(len(data)),
            do="move large facts into a payload file",
        )
    return data


def parse(data: bytes, path: Path) -> Manifest:
    """The manifest whose exact bytes these are; `path` (the artifact's directory) is for messages.

    Raises NewerSchemaError, or TamperedArtifactError for anything but the bytes that were sealed.
    """
    try:
        fields = json.loads(data)
        check_schema(fields.get("schema_version"), path)
        manifest = Manifest.model_validate(fields)
        whole = manifest.digest == manifest_digest(fields) and render(manifest) == data
    except ValidationError as error:
        raise tampered(path, f"artifact.json is not valid: {first_reason(error)}") from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise tampered(path, f"artifact.json is not readable: {error}") from error
    except NewerSchemaError:
        raise
    except ArtifactError as error:
        raise tampered(path, f"artifact.json is not valid: {error}") from error
    if not whole or manifest.key != key_of(manifest):
        raise tampered(path, "artifact.json differs from what was sealed")
    return manifest


def key_of(manifest: Manifest) -> str:
    """The key that the manifest's own fields give."""
    m = manifest
    return artifact_key(m.stage, m.stage_version, m.params, m.parents, m.inputs, m.target, m.toolchain)


def check_schema(version: object, path: Path) -> None:
    """NewerSchemaError where `version`, as read from `path`, is past what this gpusq knows."""
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise NewerSchemaError(
            f"{path}: this gpusq reads schema {SCHEMA_VERSION} and older",
            got=f"schema {version}",
            do="upgrade gpusq",
        )


def tampered(path: Path, what: str) -> TamperedArtifactError:
    """The error for a broken seal, with the mend."""
    return TamperedArtifactError(
        f"{path}: {what}",
        do=f"run: gpusq verify '{path}'; to mend it, remove that directory and run the stage again",
    )


def first_reason(error: ValidationError) -> str:
    """Place and message of the first thing pydantic refused."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
