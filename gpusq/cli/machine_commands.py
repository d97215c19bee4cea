"""`gpusq bench | doctor | targets`: what this machine can do, and what an engine does on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gpusq.cli.options import DEFAULT_STORE, Json, Reference, StoreDir, artifact_of

if TYPE_CHECKING:
    from gpusq.artifacts import Artifact

Batches = Annotated[
    list[int] | None, typer.Option("--batch", min=1, help="Batch sizes; may be repeated. Default 1, 8, 32.")
]
Against = Annotated[str | None, typer.Option("--against", help="A second engine, timed turn by turn in the same run.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads of the engine. Default: all cores.")]
OnnxFile = Annotated[
    Path | None, typer.Option("--onnx", help="Also hold this ONNX file's operators against the known-bad list.")
]
BundleDir = Annotated[
    Path | None, typer.Option("--bundle", help="The same for a bundle, which is verified before it is read.")
]
BenchTarget = Annotated[
    str | None, typer.Option("--target", "-t", help="Refuse unless the engines are for this target: cpu, a100, ...")
]
ProviderName = Annotated[
    Literal["cuda", "tensorrt"] | None,
    typer.Option("--provider", help="Also run the bundle's FP16 ONNX under this ONNX Runtime provider, in turn."),
]
Seconds = Annotated[float, typer.Option("--seconds", min=0.1, help="Time limit for each batch size and engine.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("bench", help="Measure an engine on this machine.")(bench)
    app.command("doctor", help="What this machine can build and run, and known-bad combinations. Exit 1 on a problem.")(
        doctor
    )
    app.command("targets", help="The targets that gpusq knows, with their facts and sources.")(targets)


def bench(
    artifact: Reference,
    against: Against = None,
    target: BenchTarget = None,
    batch: Batches = None,
    threads: Threads = None,
    provider: ProviderName = None,
    seconds: Seconds = 3.0,
    store: StoreDir = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Measure an engine."""
    from gpusq.cli.output import print_json, print_line, refusals

    with refusals(json):
        engines = [artifact_of(ref, store) for ref in (artifact, against) if ref is not None]
        for engine in engines:
            _check_target(engine, target)
        result = _benched(engines, tuple(batch or (1, 8, 32)), threads, seconds, provider, store)
        if json:
            print_json(result)
            return
        for row in result["rows"]:
            print_line(
                f"{row['engine'][:12]} {row['runtime']:12} batch {row['batch']:4}  p50 {row['p50_ms']:.3f} ms  "
                f"p90 {row['p90_ms']:.3f}  p99 {row['p99_ms']:.3f}  "
                f"{row['throughput_per_s']:.1f} images/s  (n {row['n']})"
            )
        for note in _notes(result):
            print_line(note)


def _benched(
    engines: list[Artifact],
    batches: tuple[int, ...],
    threads: int | None,
    seconds: float,
    provider: Literal["cuda", "tensorrt"] | None,
    store: Path,
) -> dict[str, Any]:
    if provider is None:
        from gpusq.measurement import bench_engines

        return bench_engines(engines, batches, threads, seconds)
    from gpusq.cli.options import open_store
    from gpusq.errors import UsageError
    from gpusq.provider_measurement import bench_with_provider

    if threads is not None:
        raise UsageError("--threads are of CPU engines, --provider runs on a GPU", got=str(threads), do="leave one out")
    return bench_with_provider(engines, provider, batches, seconds, open_store(store) if store.is_dir() else None)


def _notes(result: dict[str, Any]) -> list[str]:
    """Of rows under a provider: how they were timed, and where a runtime's outputs or nodes are not as expected."""
    how = result["conditions"].get("how")
    found = [f"timed: {how}"] if how else []
    for row in result["rows"]:
        gate = row.get("gate")
        if gate and not gate["passed"]:
            figures = ", ".join(f"{name} {value:.3g}" for name, value in gate["figures"].items())
            found.append(f"{row['runtime']}: other outputs than the bundle expects ({figures})")
        if row.get("note"):
            found.append(f"{row['runtime']}: {row['note']}")
    return list(dict.fromkeys(found))


def _check_target(engine: Artifact, name: str | None) -> None:
    from gpusq.errors import UsageError
    from gpusq.targets import load_target

    if name is not None and engine.manifest.target != load_target(name).name:
        raise UsageError(
            f"{engine.path.name[:24]} must be for {load_target(name).name}",
            got=str(engine.manifest.target),
            do="name an engine of that target: gpusq list",
        )


def doctor(onnx: OnnxFile = None, bundle: BundleDir = None, json: Json = False) -> None:
    """Examine this machine."""
    from gpusq.cli.output import print_json, print_line, refusals

    with refusals(json):
        from gpusq.doctor import examine, examine_model

        findings = examine(operators=examine_model(onnx, bundle))
        if json:
            print_json({"findings": [f.to_json() for f in findings]})
        else:
            for finding in findings:
                print_line(f"{finding.state:8} {finding.what}: {finding.got}")
                if finding.do:
                    print_line(f"{'':8} -> {finding.do}")
                if finding.source:
                    print_line(f"{'':8}    {' '.join(finding.source)}")
        if any(f.state == "problem" for f in findings):
            raise SystemExit(1)


def targets(json: Json = False) -> None:
    """List the targets."""
    from gpusq.cli.output import print_json, print_line, refusals

    with refusals(json):
        from gpusq.targets import load_target, target_names

        found = {name: load_target(name) for name in target_names()}
        if json:
            print_json({"targets": {name: t.model_dump(mode="json") for name, t in found.items()}})
            return
        for name, t in found.items():
            alias = "" if name == t.name else f"  (= {t.name})"
            print_line(f"{name:18} {t.title}{alias}")
