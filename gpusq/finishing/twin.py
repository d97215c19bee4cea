"""The dense twin of a bundle: named on the command line, or the one that lies beside it."""

from __future__ import annotations

from pathlib import Path

from gpusq.artifacts import Artifact, open_artifact
from gpusq.engines.bundle import Bundle
from gpusq.errors import ArtifactError, UsageError
from gpusq.finishing.rows import GPU_BASE, LAYERS, WORKLOAD, form_of, forms

BESIDE, NONE = "auto", "none"


def find_twin(artifact: Artifact, choice: str) -> Artifact | None:
    """The twin's artifact. choice: a directory; "auto": the only fitting neighbour, None without one; "none".

    A neighbour fits by its seal: a bundle for the same target with the same workload and other layer states; whether
    it is dense is checked after its bytes were. Raises UsageError where several fit.
    """
    if choice == NONE:
        return None
    if choice != BESIDE:
        return open_artifact(Path(choice))
    found = [a for a in _neighbours(artifact) if _fits(a, artifact)]
    if len(found) > 1:
        raise UsageError(
            "one dense twin was expected beside the bundle",
            got=", ".join(a.path.name[:24] for a in found),
            do="name it with --twin DIR, or --twin none",
        )
    return found[0] if found else None


def check_twin(twin: Bundle, bundle: Bundle) -> None:
    """Raise UsageError unless both are one model for one target, and the twin is dense and in floating point."""
    layers, workload = forms(twin.files)
    problems = []
    if form_of(layers, GPU_BASE) != (GPU_BASE, "dense"):
        problems.append("it is compressed")
    if workload != forms(bundle.files)[1]:
        problems.append("it computes something else")
    if twin.target != bundle.target:
        problems.append(f"it is for {twin.target.get('name')}")
    if (twin.profile, twin.input_shape) != (bundle.profile, bundle.input_shape):
        problems.append("its batches or images have other sizes")
    if problems:
        raise UsageError(
            "the twin must be the bundle of the same model uncompressed, for the same target",
            got="; ".join(problems),
            do="name the other bundle that `gpusq compress` wrote, or --twin none",
        )


def _neighbours(artifact: Artifact) -> list[Artifact]:
    """Bundles in the directory above, whose seals can be read."""
    found = []
    for path in sorted(artifact.path.parent.iterdir()):
        if path != artifact.path and (path / "artifact.json").is_file():
            try:
                found.append(open_artifact(path))
            except ArtifactError:
                continue  # not this command's matter: `gpusq verify` names it
    return [a for a in found if a.kind == artifact.kind]


def _fits(other: Artifact, artifact: Artifact) -> bool:
    theirs, ours = other.manifest, artifact.manifest
    if theirs.target != ours.target or LAYERS not in theirs.files or LAYERS not in ours.files:
        return False
    same_work = theirs.files.get(WORKLOAD) == ours.files.get(WORKLOAD)
    return same_work and theirs.files[LAYERS] != ours.files[LAYERS] and _is_dense(other)


def _is_dense(artifact: Artifact) -> bool:
    """By the layer states, read with their hash checked. Raises TamperedArtifactError."""
    layers, _ = forms({name: artifact.read(name) for name in (LAYERS, WORKLOAD)})
    return form_of(layers, GPU_BASE) == (GPU_BASE, "dense")
