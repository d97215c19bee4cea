"""What a finishing run works on: the bundles, checked, and where their engines go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gpusq.artifacts import Artifact, open_artifact
from gpusq.engines.bundle import FP32, Bundle
from gpusq.engines.sealed_bundle import open_bundle
from gpusq.finishing.file_places import check_file_place
from gpusq.finishing.gate import gate_of
from gpusq.finishing.receipt_file import Role
from gpusq.finishing.sealing import check_out
from gpusq.finishing.twin import BESIDE, check_twin, find_twin

Progress = Callable[[str, int, int | None, str], None]
BUILDER = "tensorrt"
TWIN_SUFFIX = "-twin"


def silent(what: str, done: int, total: int | None, note: str) -> None:
    """Ignores progress."""


@dataclass(frozen=True)
class FinishOptions:
    """out: the engine's directory; the twin's is beside it. twin: a bundle directory, "auto" or "none".

    require_sparse: least share (0 to 1) of the GEMM time that sparse kernels must take, None for no such demand.
    receipt: where the receipt file goes, None for nowhere. timing_cache: read where it exists, then written.
    workspace_mib: None for the library's own limit. seconds: of measuring, for each engine and batch.
    """

    out: Path
    builder: str = BUILDER
    twin: str = BESIDE
    require_sparse: float | None = None
    receipt: Path | None = None
    timing_cache: Path | None = None
    workspace_mib: int | None = None
    seconds: float = 3.0
    progress: Progress = field(default=silent)


@dataclass(frozen=True)
class Opened:
    """One bundle, every byte checked, and the directory of its engine."""

    role: Role
    artifact: Artifact
    bundle: Bundle
    out: Path


def open_bundles(directory: Path, options: FinishOptions) -> tuple[Opened, ...]:
    """The model's bundle, and the twin's where there is one; no library and no parser has seen their payload yet.

    Raises TamperedArtifactError, StageOrderError for other artifacts, UsageError for an unfit twin, task, --out or
    place of a file, StoreError for a place that is not writable.
    """
    artifact = open_artifact(directory)
    found = [Opened("model", artifact, _without_fp32(open_bundle(artifact)), options.out)]
    twin = find_twin(artifact, options.twin)
    if twin is not None:
        out = options.out.with_name(options.out.name + TWIN_SUFFIX)
        found.append(Opened("dense twin", twin, _without_fp32(open_bundle(twin)), out))
        check_twin(found[1].bundle, found[0].bundle)
    for opened in found:
        gate_of(opened.bundle.task)
        check_out(opened.out, [each.artifact.path for each in found])
    check_files(options, [opened.out for opened in found])
    return tuple(found)


def check_files(options: FinishOptions, outs: Sequence[Path]) -> None:
    """Refuse places of the receipt and the timing cache that could not be written, or would break a seal."""
    for option, file in (("--receipt", options.receipt), ("--timing-cache", options.timing_cache)):
        if file is not None:
            check_file_place(file, option, outs)


def _without_fp32(bundle: Bundle) -> Bundle:
    """The largest file was checked and is not needed here: a device has one memory for everything."""
    return replace(bundle, files={name: data for name, data in bundle.files.items() if name != FP32})
