"""Finding artifacts in a folder of them: by reference, by lineage, and checking them all."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from gpusq.artifacts.artifact import Artifact, open_artifact
from gpusq.artifacts.layout import names_in
from gpusq.artifacts.manifest import MANIFEST_NAME
from gpusq.errors import ArtifactError, ArtifactNotFoundError

SHORTEST_PREFIX = 6
SHOWN_HEX = 12


def scan(folder: Path) -> tuple[list[Artifact], dict[str, ArtifactError]]:
    """What opens, oldest first, and the error of each entry that does not."""
    whole: list[tuple[int, str, Artifact]] = []
    broken: dict[str, ArtifactError] = {}
    for name in names_in(folder):
        try:
            artifact = open_artifact(folder / name)
            whole.append(((folder / name / MANIFEST_NAME).stat().st_mtime_ns, name, artifact))
        except FileNotFoundError:  # removed between the two lines above
            continue
        except ArtifactError as error:
            broken[name] = error
    return [artifact for _, _, artifact in sorted(whole, key=lambda item: item[:2])], broken


def resolve(folder: Path, ref: str) -> Artifact:
    """See Store.resolve."""
    if os.sep in ref or os.path.lexists(Path(ref) / MANIFEST_NAME):
        return open_artifact(Path(ref))
    kind, _, prefix = ref.lower().rpartition("-")
    if not re.fullmatch(f"[0-9a-f]{{{SHORTEST_PREFIX},64}}", prefix):
        raise _not_found(folder, ref, f"no path, and not {SHORTEST_PREFIX} to 64 hex digits")
    whole, broken = scan(folder)
    matches = [a for a in whole if _answers(a, kind, prefix)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        shown = ", ".join(f"{a.kind}-{a.digest[:SHOWN_HEX]}" for a in matches)
        raise ArtifactNotFoundError(
            f"{ref!r} is ambiguous in {folder.parent}", got=f"{len(matches)} artifacts: {shown}", do="give more digits"
        )
    for name, error in broken.items():
        if name[-64:].startswith(prefix) and name.startswith(kind):
            raise error
    raise _not_found(folder, ref, "no such artifact")


def _answers(artifact: Artifact, kind: str, prefix: str) -> bool:
    return kind in ("", artifact.kind) and (artifact.digest.startswith(prefix) or artifact.key.startswith(prefix))


def _not_found(folder: Path, ref: str, got: str) -> ArtifactNotFoundError:
    handles = [f"{a.kind}-{hexes[:SHOWN_HEX]}" for a in scan(folder)[0] for hexes in (a.digest, a.key)]
    bare = ref.lower().rpartition("-")[2]
    near = difflib.get_close_matches(ref.lower()[: SHOWN_HEX + 12], handles, n=3, cutoff=0.5)
    near += [handle for handle in handles if handle.rpartition("-")[2][:3] == bare[:3] and handle not in near][:3]
    do = f"did you mean {', '.join(near)}?" if near else "list what is there with: gpusq list"
    return ArtifactNotFoundError(f"{ref!r} names no artifact in {folder.parent}", got=got, do=do)


def ancestors(whole: list[Artifact], artifact: Artifact) -> list[Artifact]:
    """All artifacts of `whole` that `artifact` was made from, nearest first."""
    by_digest = {a.digest: a for a in whole}
    found: dict[str, Artifact] = {}
    level = [artifact]
    while level:
        digests = dict.fromkeys(parent.digest for a in level for parent in a.manifest.parents)
        level = [by_digest[d] for d in digests if d in by_digest and d not in found]
        found.update((a.digest, a) for a in level)
    return list(found.values())


def verify_all(folder: Path) -> dict[str, list[str]]:
    """See Store.verify_all."""
    whole, broken = scan(folder)
    by_key = {a.key: a.digest for a in whole}
    problems = {a.path.name: a.verify() + _replaced_parents(a, by_key) for a in whole}
    for name, error in broken.items():
        is_artifact = (folder / name).is_dir()
        problems[name] = [f"torn: {error.what}" if is_artifact else f"extra: {name} is not an artifact"]
    return dict(sorted(problems.items()))


def _replaced_parents(artifact: Artifact, by_key: dict[str, str]) -> list[str]:
    return [
        f"replaced: {parent.role} {parent.kind}-{parent.key[:SHOWN_HEX]} is not the one this was made from"
        for parent in artifact.manifest.parents
        if by_key.get(parent.key, parent.digest) != parent.digest
    ]
