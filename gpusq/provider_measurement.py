"""Engines beside ONNX Runtime on the same GPU: the bundle's FP16 graph through its CUDA or TensorRT provider.

All of them take turns in one run, by the host's clock, from images in host memory to outputs in host memory, which is
what ONNX Runtime's plain call does; device times of an engine alone are `device_measurement`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from gpusq.engines.compatibility import is_device_engine
from gpusq.errors import ArtifactNotFoundError, EngineError, GpusqError, MissingExtraError, UsageError
from gpusq.machine import MachineOf, open_gpu, open_machine

if TYPE_CHECKING:
    import numpy as np

    from gpusq.artifacts import Artifact, Store
    from gpusq.engines.bundle import Bundle
    from gpusq.engines.onnxruntime_gpu import GpuRunner, Provider
    from gpusq.latency.clocks import Clocks

HOW = "host clock, images and outputs copied from and to host memory"


@dataclass(frozen=True)
class _Subject:
    """Something to time. note: what a reader must know of it. gate: its outputs beside the expected ones."""

    digest: str
    runtime: str
    call: Callable[[np.ndarray], object]
    note: str = ""
    gate: dict[str, Any] | None = None


def bundle_of(engine: Artifact, store: Store | None) -> Artifact:
    """The bundle that a device engine was built from. Raises UsageError where it cannot be found."""
    parent = next((p.digest for p in engine.manifest.parents if p.kind == "bundle"), None)
    try:
        if store is not None and parent is not None:
            return store.resolve(parent)
    except ArtifactNotFoundError:
        pass
    raise UsageError(
        f"--provider runs the ONNX file of the bundle of {engine.path.name[:24]}",
        got=f"no bundle {(parent or '')[:12]} in the store".replace("  ", " "),
        do="name it: gpusq bench BUNDLE --provider ... --against ENGINE, or --store STORE",
    )


def bench_with_provider(
    artifacts: Sequence[Artifact],
    provider: Provider,
    batches: Sequence[int],
    seconds: float,
    store: Store | None = None,
    machine_of: MachineOf = open_machine,
) -> dict[str, Any]:
    """Rows (engine, runtime, batch, percentiles, ...) of device engines and of their bundles under `provider`.

    artifacts: device engines and bundles; the bundle of an engine that comes without one is taken from `store`.
    seconds: for each and each batch size. Raises UsageError for others, TamperedArtifactError, and EngineError where an
    engine does not run here or the provider did not start on the GPU: the CPU never stands in for it.
    """
    from gpusq.engines.onnxruntime_gpu import check_provider
    from gpusq.engines.sealed_bundle import open_bundle

    engines, bundles = _sorted(artifacts)
    if not bundles:
        bundles = list({b.digest: b for b in (bundle_of(engine, store) for engine in engines)}.values())
    opened = {bundle.digest: open_bundle(bundle) for bundle in bundles}
    _check_batches(batches, list(opened.values()))
    version = check_provider(provider)
    machines = [_engine(engine, machine_of) for engine in engines]
    subjects = [subject for subject, _ in machines]
    subjects += [_under_provider(digest, bundle, provider, version) for digest, bundle in opened.items()]
    device, clocks = machines[0][1] if machines else _device()
    images = next(iter(opened.values())).expected()[0]
    rows, watched = [], {}
    for batch in batches:
        found, watched[str(batch)] = _timed(subjects, images, batch, seconds, clocks)
        rows += found
    return {"rows": rows, "conditions": {"device": device, "batches": watched, "how": HOW}, "status": "measured"}


def _sorted(artifacts: Sequence[Artifact]) -> tuple[list[Artifact], list[Artifact]]:
    """(device engines, bundles), each once."""
    each = list({artifact.digest: artifact for artifact in artifacts}.values())
    engines, bundles = [a for a in each if is_device_engine(a)], [a for a in each if a.kind == "bundle"]
    other = next((a for a in each if a not in engines and a not in bundles), None)
    if other is not None:
        raise UsageError(
            "--provider compares GPU engines and bundles",
            got=f"{other.path.name[:24]}, " + ("an engine of the CPU" if other.kind == "engine" else f"a {other.kind}"),
            do="name a bundle, or an engine that `gpusq build BUNDLE` made",
        )
    return engines, bundles


def _check_batches(batches: Sequence[int], bundles: Sequence[Bundle]) -> None:
    """An engine would take a larger batch in parts, and the comparison would be with something else."""
    largest = min(bundle.profile.maximum for bundle in bundles)
    if max(batches) > largest:
        raise UsageError(
            f"the bundle is made for batches of up to {largest}", got=str(max(batches)), do="give --batch, or less"
        )


def _engine(artifact: Artifact, machine_of: MachineOf) -> tuple[_Subject, tuple[dict[str, Any] | None, Clocks]]:
    from gpusq.device_measurement import open_on_device
    from gpusq.engines.device_runner import DeviceRunner

    engine, _, gpu = open_on_device(artifact, machine_of)
    runner = DeviceRunner(engine)
    subject = _Subject(artifact.digest, str(artifact.read_json("engine.json")["runtime"]), runner.run)
    return subject, (gpu.device.to_json(), gpu.clocks)


def _under_provider(digest: str, bundle: Bundle, provider: Provider, version: str) -> _Subject:
    from gpusq.engines.bundle import FP16
    from gpusq.finishing.gate import gate_of

    runner, note = _loaded(bundle.files[FP16], provider, f"{bundle.path.name[:24]}/{FP16}")
    name = f"{runner.name} {version}, {FP16}"
    images, expected = bundle.expected()
    try:
        gate = gate_of(bundle.task)(bundle, expected, runner.outputs(images))
    except EngineError:
        raise
    except GpusqError as error:  # such as a NaN: the time is real, and the row says what it is worth
        return _Subject(digest, name, runner.run, "; ".join(n for n in (note, str(error)) if n))
    return _Subject(digest, name, runner.run, note, gate.to_json())


def _loaded(onnx: bytes, provider: Provider, where: str) -> tuple[GpuRunner, str]:
    """(runner, note): every node on the GPU, or else the note says that some are not."""
    from gpusq.engines.onnxruntime_gpu import load_gpu

    try:
        return load_gpu(onnx, provider, allow_cpu_nodes=False, where=where), ""
    except EngineError as error:
        runner = load_gpu(onnx, provider, where=where)
        why = error.got or error.what
        return runner, f"with every node on the GPU it was refused, so some may run on the CPU: {why}"


def _device() -> tuple[dict[str, Any] | None, Clocks]:
    """Facts and clocks of the GPU; without cuda-python the clocks alone."""
    from gpusq.latency.clocks import open_clocks

    try:
        gpu = open_gpu()
    except (MissingExtraError, EngineError):
        return None, open_clocks()
    return gpu.device.to_json(), gpu.clocks


def _timed(
    subjects: Sequence[_Subject], images: np.ndarray, batch: int, seconds: float, clocks: Clocks
) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
    import numpy as np

    from gpusq.latency import time_interleaved
    from gpusq.latency.clocks import Watch

    given = np.ascontiguousarray(np.resize(images, (batch, *images.shape[1:])))
    calls = {f"{s.runtime} {s.digest}": partial(s.call, given) for s in subjects}
    with Watch(clocks) as watch:
        timings = time_interleaved(calls, batch=batch, max_seconds=seconds)
        watch.look()
        told = watch.to_json()
    rows = [
        {
            "engine": s.digest,
            "runtime": s.runtime,
            "batch": batch,
            **asdict(timings[f"{s.runtime} {s.digest}"]),
            "gate": s.gate,
            "note": s.note,
            "throttled": told["throttled"],
        }
        for s in subjects
    ]
    return rows, told
