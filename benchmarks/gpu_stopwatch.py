"""On a machine with an NVIDIA GPU: a TensorRT-RTX engine there, gpusq's stopwatch beside torch's, NVML's clocks.

    .venv/bin/python benchmarks/gpu_stopwatch.py BUNDLE

BUNDLE: an A100 bundle that `gpusq compress --target a100` left. Needs the extras rtx and gpu, and a torch with CUDA.
1. The engine for compute capability 8.0 is loaded on the GPU at hand, whatever that is: does it run, and are its
   outputs those that the bundle expects? (Whether such a plan runs on compute capability 9.0 is nowhere stated.)
2. One captured batch timed by gpusq.latency.device_stopwatch and, launched on the same stream, by torch.cuda.Event.
   The medians must agree within TOLERANCE.
3. Clocks, power and throttling as NVML gives them during that time, and the energy of an image.

Writes benchmarks/results/gpu_stopwatch.json and .md. Without a GPU it says "not run"; with --write-not-run it writes
the Markdown file that says so. Exits with 1 where the two stopwatches disagree.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from gpusq.artifacts import open_artifact
from gpusq.engines.sealed_bundle import open_bundle
from gpusq.errors import EngineError, GpusqError, MissingExtraError

if TYPE_CHECKING:
    from gpusq.engines.bundle import Bundle
    from gpusq.engines.device_engine import DeviceEngine
    from gpusq.machine import Gpu, Machine

RESULT = Path(__file__).parent / "results" / "gpu_stopwatch.json"
COMMAND = ".venv/bin/python benchmarks/gpu_stopwatch.py BUNDLE"
TITLE = "# TensorRT-RTX on the GPU at hand, and the stopwatch beside torch's"
BATCHES = (1, 8, 32)
REPEATS = 200
TOLERANCE = 0.05
"""Largest relative difference of the two medians; both read CUDA events on one stream."""


def load(bundle: Bundle, machine: Machine, gpu: Gpu) -> tuple[DeviceEngine | None, dict[str, Any]]:
    """The bundle's engine on this GPU, and what loading and comparing it showed."""
    from gpusq.engines.device_engine import DeviceEngine
    from gpusq.finishing.building import build_bundle, built_for
    from gpusq.finishing.running import compare_outputs

    purpose = built_for(bundle, machine.builder, machine.trt, gpu.device)
    plan = build_bundle(
        bundle, machine.trt, purpose, workspace_mib=None, timing_cache=None, progress=lambda *_: None, what="engine"
    )
    facts: dict[str, Any] = {"built_for": list(purpose.capabilities), "runs_on": gpu.device.capability}
    try:
        engine = DeviceEngine(plan.plan, machine.trt, gpu.cuda)
        gate = compare_outputs(engine, bundle, {})
    except EngineError as error:
        return None, facts | {"loads": False, "message": str(error)}
    return engine, facts | {"loads": True, "gate": gate.to_json()}


def torch_median_ms(launch: Any, stream: int) -> float:
    """Median of REPEATS launches by torch's own CUDA events on the same stream."""
    import torch

    taken = []
    with torch.cuda.stream(torch.cuda.ExternalStream(stream)):
        for _ in range(REPEATS):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            launch()
            end.record()
            end.synchronize()
            taken.append(start.elapsed_time(end))
    return float(median(taken))


def both_stopwatches(engine: DeviceEngine, gpu: Gpu) -> list[dict[str, Any]]:
    """Each batch by gpusq's stopwatch and by torch's, with the clocks meanwhile."""
    from gpusq.engines.device_session import Session
    from gpusq.latency.clocks import Watch
    from gpusq.latency.device_stopwatch import throughput_of, time_on_device

    rows = []
    for batch in BATCHES:
        with Session(engine) as session:
            session.capture(batch)
            watch = Watch(gpu.clocks)
            ours = time_on_device(
                {"engine": session}, gpu.cuda, min_repeats=REPEATS, max_seconds=1, batch=batch, look=watch.look
            )["engine"]
            theirs = torch_median_ms(session.launch, session.stream)
            watch.close()
            busy = Watch(gpu.clocks)
            run = throughput_of([session], gpu.cuda, batch=batch, seconds=1.0, look=busy.look)
            busy.look()
            busy.close()
            joules = busy.energy_j(run.seconds)
        rows.append(
            {
                "batch": batch,
                "gpusq_ms": ours.p50_ms,
                "noise_ms": [ours.p50_low_ms, ours.p50_high_ms],
                "torch_ms": theirs,
                "images_per_s": run.images_per_s,
                "millijoules_per_image": None if joules is None else 1e3 * joules[0] / (run.n * batch),
                "conditions": watch.to_json(),
            }
        )
    return rows


def agrees(row: Mapping[str, Any]) -> bool:
    """Whether the two medians are within TOLERANCE of each other."""
    return bool(abs(row["gpusq_ms"] - row["torch_ms"]) <= TOLERANCE * row["torch_ms"])


def page(result: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    device, load_facts = result["device"], result["engine"]
    lines = [TITLE, "", f"Command: `{COMMAND}`", "", f"{device['name']}, compute capability {device['capability']}, "
             f"driver for CUDA {device['driver']}, CUDA {device['runtime']}, {result['library']}.", ""]  # fmt: skip
    built = ", ".join(load_facts["built_for"])
    if not load_facts["loads"]:
        return "\n".join(
            [*lines, f"The plan for compute capability {built} does not load: {load_facts['message']}", ""]
        )
    gate = load_facts["gate"]
    lines += [
        f"The plan for compute capability {built} loads and runs; outputs {'agree' if gate['passed'] else 'DIFFER'}: "
        f"{gate['figures']}.",
        "",
        "| batch | gpusq p50 ms | torch p50 ms | agree | images/s | mJ an image | clocks | throttled |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["rows"]:
        energy = "unknown" if row["millijoules_per_image"] is None else f"{row['millijoules_per_image']:.3g}"
        lines.append(
            f"| {row['batch']} | {row['gpusq_ms']:.4f} | {row['torch_ms']:.4f} | {'yes' if agrees(row) else 'NO'} | "
            f"{row['images_per_s']:.0f} | {energy} | {row['conditions']['clocks']} | {row['conditions']['throttled']} |"
        )
    return "\n".join([*lines, ""])


def not_run(reason: str) -> str:
    """The page of a machine without a GPU."""
    return f"{TITLE}\n\nnot run: {reason}. On a machine with an NVIDIA GPU:\n\n    {COMMAND}\n"


def main() -> int:
    """Take the figures where there is a GPU, and say "not run" where there is none."""
    from gpusq.machine import open_machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--write-not-run", action="store_true", help="without a GPU, write the page that says so")
    given = parser.parse_args()
    try:
        machine = open_machine("tensorrt-rtx")
    except MissingExtraError as error:
        print(f"not run: {error}")
        return 0
    if machine.gpu is None:
        print(f"not run: {machine.absent}")
        if given.write_not_run:
            RESULT.with_suffix(".md").write_text(not_run("no GPU at hand"), encoding="utf-8")
        return 0
    if given.bundle is None:
        parser.error("name an A100 bundle")
    return take(open_bundle(open_artifact(given.bundle)), machine, machine.gpu)


def take(bundle: Bundle, machine: Machine, gpu: Gpu) -> int:
    """Measure and write; 1 where the stopwatches disagree or outputs differ."""
    engine, facts = load(bundle, machine, gpu)
    rows = both_stopwatches(engine, gpu) if engine is not None else []
    result = {
        "command": COMMAND,
        "device": gpu.device.to_json(),
        "library": f"{machine.trt.__name__} {machine.trt.__version__}",
        "engine": facts,
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    RESULT.with_suffix(".md").write_text(page(result), encoding="utf-8")
    print(page(result))
    return 0 if all(map(agrees, rows)) and facts.get("gate", {"passed": True})["passed"] else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GpusqError as refusal:
        sys.exit(f"{type(refusal).__name__}: {refusal}")
