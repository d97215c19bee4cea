"""Reading a bundle: checked byte by byte, and every byte read once, before TensorRT or a parser sees any of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpusq.artifacts.files import read_inside
from gpusq.engines.bundle import (
    DEFAULT_AGREEMENT,
    DEFAULT_TASK,
    FP16,
    FP32,
    MANIFEST,
    SAMPLES,
    SCHEMA_VERSION,
    BatchProfile,
    Bundle,
    json_bytes,
    sha256_of,
)
from gpusq.errors import ArtifactNotFoundError, NewerSchemaError, StageOrderError, TamperedArtifactError

if TYPE_CHECKING:
    from gpusq.artifacts import Artifact

LARGEST_MANIFEST_BYTES = 1 << 20
NOT_SEALED = (MANIFEST, "artifact.json")  # the seals themselves


def read_bundle(directory: Path) -> Bundle:
    """Verify every file against bundle.json and return the verified bytes. Nothing is parsed before its hash agrees.

    Raises TamperedArtifactError naming the first file that is changed, truncated, missing, a link or not listed,
    NewerSchemaError for a bundle of a newer gpusq, ArtifactNotFoundError where there is no such directory.
    """
    if not directory.is_dir():
        raise ArtifactNotFoundError(f"{directory}: expected the directory of a bundle", do="list them with: gpusq list")
    seal = _bytes_of(directory, MANIFEST, LARGEST_MANIFEST_BYTES)
    manifest = _parse_manifest(directory, seal)
    listed = manifest["files"]
    unlisted = sorted(p.name for p in directory.iterdir() if p.name not in listed and p.name not in NOT_SEALED)
    if unlisted:
        raise _tampered(directory, f"{unlisted[0]} is not listed in {MANIFEST}")
    return _bundle(directory, manifest, {n: _bytes_of(directory, n, entry["size"]) for n, entry in listed.items()})


def open_bundle(artifact: Artifact) -> Bundle:
    """The bundle of a sealed artifact: every byte is checked against artifact.json and against bundle.json.

    What is returned is what was checked, read once. Raises StageOrderError for another kind, TamperedArtifactError.
    """
    if artifact.kind != "bundle":
        raise StageOrderError("a bundle was expected", got=artifact.kind, do="`gpusq build --target a100` makes one")
    problems = artifact.glance()
    if problems:
        raise _tampered(artifact.path, "; ".join(problems[:3]))
    files = {name: artifact.read(name) for name in artifact.manifest.files}
    if MANIFEST not in files:
        raise _tampered(artifact.path, f"there is no {MANIFEST}")
    manifest = _parse_manifest(artifact.path, files.pop(MANIFEST))
    if set(files) != set(manifest["files"]):
        raise _tampered(artifact.path, f"artifact.json and {MANIFEST} list different files")
    return _bundle(artifact.path, manifest, files)


def _bundle(directory: Path, manifest: dict[str, Any], files: Mapping[str, bytes]) -> Bundle:
    for name, entry in manifest["files"].items():
        if len(files[name]) != entry["size"] or sha256_of(files[name]) != entry["sha256"]:
            raise _tampered(directory, f"{name} has other contents than were sealed")
    missing = sorted({FP16, FP32, SAMPLES} - set(files))
    if missing:
        raise _tampered(directory, f"{missing[0]} is not listed in {MANIFEST}")
    return Bundle(
        directory,
        manifest["target"],
        BatchProfile(**manifest["profile"]),
        float(manifest["tolerance"]),
        manifest["input_name"],
        tuple(manifest["input_shape"]),
        files,
        manifest.get("task", DEFAULT_TASK),
        float(manifest.get("agreement", DEFAULT_AGREEMENT)),
    )


def _parse_manifest(directory: Path, data: bytes) -> dict[str, Any]:
    """The manifest whose exact bytes these are: another spelling of the same values is refused too."""
    try:
        manifest: dict[str, Any] = json.loads(data)
        version = int(manifest["schema_version"])
        exact = json_bytes(manifest) == data
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _tampered(directory, f"{MANIFEST} does not parse") from error
    if version > SCHEMA_VERSION:
        raise NewerSchemaError(
            f"{directory / MANIFEST}: schema {SCHEMA_VERSION} or older was expected",
            got=str(version),
            do="upgrade gpusq",
        )
    digest = manifest.pop("digest", None)
    if not exact or digest != sha256_of(json_bytes(manifest)):
        raise _tampered(directory, f"{MANIFEST} has other contents than were sealed")
    _check_fields(directory, manifest)
    return manifest


def _check_fields(directory: Path, manifest: dict[str, Any]) -> None:
    kinds: dict[str, type] = {
        "target": dict,
        "profile": dict,
        "tolerance": float,
        "input_name": str,
        "input_shape": list,
    }
    wrong = [key for key, kind in kinds.items() if not isinstance(manifest.get(key), kind)]
    files = manifest.get("files")
    if wrong or not isinstance(files, dict) or not all(_is_entry(name, entry) for name, entry in files.items()):
        raise _tampered(directory, f"{MANIFEST} is incomplete ({', '.join(wrong) or 'files'})")
    if sorted(manifest["profile"]) != ["maximum", "minimum", "optimum"]:
        raise _tampered(directory, f"{MANIFEST} is incomplete (profile)")


def _is_entry(name: str, entry: Any) -> bool:
    plain = Path(name).name == name and name not in ("", ".", "..") and "\0" not in name
    return (
        plain
        and isinstance(entry, dict)
        and isinstance(entry.get("sha256"), str)
        and isinstance(entry.get("size"), int)
    )


def _bytes_of(directory: Path, name: str, limit_bytes: int) -> bytes:
    """A regular file with one name, opened without following links, at most one byte more than `limit_bytes` of it."""
    try:
        data = read_inside(directory, name, limit_bytes)
    except OSError as error:
        raise _tampered(directory, f"{name} is missing or not a regular file ({error})") from error
    if len(data) > limit_bytes:
        raise _tampered(directory, f"{name} has more than {limit_bytes} bytes")
    return data


def _tampered(directory: Path, found: str) -> TamperedArtifactError:
    return TamperedArtifactError(
        f"every byte of the bundle {directory} must be what was sealed", got=found, do="copy the whole bundle again"
    )
