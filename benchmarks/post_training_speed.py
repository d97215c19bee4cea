"""Time the post-training path, the masks of a ViT-B and the start of the command line, each in a fresh process.

    OMP_NUM_THREADS=2 .venv/bin/python benchmarks/post_training_speed.py

1. `gpusq compress` of ViT-S/16 at 224 px with 64 training images and no epochs, through all stages and the report: wall
   seconds and peak memory, once for cpu and once for cpu, a100 and agx-orin together. Weights are fresh: the figure is
   speed. The images are Fashion-MNIST enlarged to 224 px and written as PNG folders (64 to calibrate with, 64 to test).
2. Magnitude masks for all linears of a ViT-B/16.
3. `gpusq --help`, and that it imports no torch.

Writes benchmarks/results/post_training_speed.json and .md. Exits with 1 where a figure is over its limit.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from gpusq.latency import host_conditions

RESULT = Path(__file__).parent / "results" / "post_training_speed.json"
IMAGES = 64
IMAGE_PX = 224
TARGETS = (("cpu",), ("cpu", "a100", "agx-orin"))
COLUMNS = (
    "model_stages_seconds",
    "seconds",
    "cpu_seconds",
    "seconds_in_stages",
    "largest_process_gb",
    "processes_together_gb",
)
LIMITS = {"seconds": 90.0, "gigabytes": 3.0, "masks_seconds": 0.5, "help_seconds": 0.3}
SAMPLE_S = 0.1
AGREEMENT = 0.8
HOW = (
    f"`gpusq compress --model new:vit-small` (ViT-S/16, 224 px, fresh weights), prune.epochs=0, qat.epochs=0, {IMAGES}"
    f" training and {IMAGES} test images (Fashion-MNIST enlarged to {IMAGE_PX} px). Fresh weights hardly tell"
    f" images apart, so the top-1 agreement asked of exports and engines is {AGREEMENT:.0%} here. Wall time from the"
    " start of the process to its end: all stages, the dense twin, the report and its measurements; a fresh store"
    " each time. OMP_WAIT_POLICY=PASSIVE,"
)
SETTINGS = (
    "prune.epochs=0",
    "qat.epochs=0",
    f"export.agreement={AGREEMENT}",
    f"export.fp16_agreement={AGREEMENT}",
    f"build.agreement={AGREEMENT}",
)
MASK_SOURCE = """
import json, time, torch
from torch import nn
from gpusq.models import load_model
from gpusq.sparsity import gemm_matrix, magnitude_score, mask_nm
torch.set_num_threads({threads})
linears = [m.weight.detach() for m in load_model("new:vit-base").module.modules() if isinstance(m, nn.Linear)]
taken = []
for _ in range({repeats}):
    began = time.perf_counter()
    for weight in linears:
        mask_nm(magnitude_score(gemm_matrix(weight)), 2, 4)
    taken.append(time.perf_counter() - began)
print(json.dumps({{"linears": len(linears), "weights": sum(w.numel() for w in linears), "seconds": taken}}))
"""


@dataclass(frozen=True)
class Finished:
    """A child process that has ended.

    seconds: wall time. cpu_seconds: of all threads, user and system; other load disturbs it less.
    largest_gb: largest resident set of any one process of the tree (getrusage). together_gb: largest sum of the
    resident sets of the tree, sampled every SAMPLE_S seconds; shared pages count twice.
    """

    output: str
    seconds: float
    cpu_seconds: float
    largest_gb: float
    together_gb: float


def run_measured(command: list[str], environment: dict[str, str]) -> Finished:
    """Run a command to its end. Raises SystemExit with the end of its error output where it fails."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=errors, env=environment)
        watch = Watch(process.pid)
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        watch.stop()
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {errors.read()[-2000:]}")
        cpu = usage.ru_utime + usage.ru_stime
        return Finished(output.read(), seconds, cpu, usage.ru_maxrss / 2**20, watch.peak_bytes / 2**30)


class Watch(threading.Thread):
    """Samples the summed resident memory of a process and its descendants until it is stopped."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._end, self.peak_bytes = pid, threading.Event(), 0

    def run(self) -> None:
        while not self._end.wait(SAMPLE_S):
            self.peak_bytes = max(self.peak_bytes, resident_bytes(self._pid))

    def stop(self) -> None:
        self._end.set()
        self.join()


def resident_bytes(pid: int) -> int:
    """Resident bytes of a process and its descendants; 0 where it is gone."""
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for process in tree:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def write_images(source: Path | None, folder: Path) -> None:
    """IMAGES training and IMAGES test images of Fashion-MNIST, enlarged, as class folders under train and test."""
    from PIL import Image

    from gpusq.data import open_data

    data = open_data(f"fashion-mnist:{source}" if source else "fashion-mnist")
    for images in (data.train, data.test):
        for name in images.classes:
            (folder / images.split / plain(name)).mkdir(parents=True)
        for index in range(IMAGES):
            picture = Image.fromarray(images.image(index)).resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BILINEAR)
            picture.save(folder / images.split / plain(images.classes[int(images.label(index) or 0)]) / f"{index}.png")


def plain(name: str) -> str:
    """A class name as a folder name."""
    return name.replace("/", "-").replace(" ", "-").lower()


def environment_of(threads: int) -> dict[str, str]:
    """The environment of the children: the thread count, and threads that wait without spinning."""
    return os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}


def compress(images: Path, store: Path, targets: tuple[str, ...], environment: dict[str, str]) -> dict[str, Any]:
    """One post-training run in a fresh process and a fresh store."""
    command = [sys.executable, "-m", "gpusq", "compress", "--model", "new:vit-small", "--data", str(images)]
    command += ["--store", str(store), "--quiet", "--json"]
    for setting in SETTINGS:
        command += ["--set", setting]
    for target in targets:
        command += ["--target", target]
    done = run_measured(command, environment)
    stages = [(a["role"], a["stage"], a["target"], a["seconds"]) for a in json.loads(done.output)["artifacts"]]
    in_stages = sum(seconds for *_, seconds in stages)
    return {
        "targets": list(targets),
        "seconds": round(done.seconds, 1),
        "cpu_seconds": round(done.cpu_seconds, 1),
        "model_stages_seconds": round(sum(x for role, *_, x in stages if role == "model"), 1),
        "seconds_in_stages": round(in_stages, 1),
        "seconds_of_start_and_report": round(done.seconds - in_stages, 1),
        "largest_process_gb": round(done.largest_gb, 2),
        "processes_together_gb": round(done.together_gb, 2),
        "stages": [{"role": r, "stage": s, "target": t, "seconds": round(x, 1)} for r, s, t, x in stages],
    }


def masks(threads: int, repeats: int, environment: dict[str, str]) -> dict[str, Any]:
    """Magnitude masks of all linears of a ViT-B/16 (head included): first call and median."""
    source = MASK_SOURCE.format(threads=threads, repeats=repeats)
    found = json.loads(run_measured([sys.executable, "-c", source], environment).output)
    taken = found.pop("seconds")
    return found | {
        "first_seconds": round(taken[0], 3),
        "median_seconds": round(statistics.median(taken), 3),
        "n": repeats,
    }


def help_page(repeats: int, environment: dict[str, str]) -> dict[str, Any]:
    """Wall seconds of `gpusq --help`, and whether its process imported torch."""
    command = [sys.executable, "-m", "gpusq", "--help"]
    taken = [run_measured(command, environment).seconds for _ in range(repeats)]
    trace = subprocess.run(
        [sys.executable, "-X", "importtime", *command[1:]], capture_output=True, text=True, check=True
    )
    return {
        "median_seconds": round(statistics.median(taken), 3),
        "n": repeats,
        "imports_torch": imports(trace.stderr, "torch"),
    }


def imports(trace: str, package: str) -> bool:
    """Whether a `python -X importtime` trace names the package or one of its modules."""
    names = (line.rpartition("|")[2].strip() for line in trace.splitlines() if line.startswith("import time:"))
    return any(name == package or name.startswith(f"{package}.") for name in names)


def over_limits(content: dict[str, Any]) -> list[str]:
    """The figures that are over LIMITS, in words; empty where all hold."""
    checks = [("masks of ViT-B, seconds", content["masks"]["median_seconds"], LIMITS["masks_seconds"])]
    checks += [("gpusq --help, seconds", content["help"]["median_seconds"], LIMITS["help_seconds"])]
    for run in content["compress"]:
        where = "+".join(run["targets"])
        checks += [(f"stages of the model for {where}, seconds", run["model_stages_seconds"], LIMITS["seconds"])]
        checks += [(f"compress for {where}, GB", run["processes_together_gb"], LIMITS["gigabytes"])]
    found = [f"{what}: {value} > {limit}" for what, value, limit in checks if value > limit]
    return found + (["gpusq --help imports torch"] if content["help"]["imports_torch"] else [])


def page(content: dict[str, Any]) -> str:
    """The results as Markdown."""
    host = content["host"]
    lines = [
        "# Speed of the post-training path, of masks and of the command line",
        "",
        f"`{content['command']}`, {content['date']}.",
        f"{host['cpu']}, {host['cores']} cores; load average before {content['load_before']},"
        f" after {content['load_after']}.",
        "",
        content["how"],
        "",
        "| targets | wall seconds in the model's stages (limit 90) | whole command | CPU seconds of all threads"
        " | in all stages | largest process, GB | all processes, GB (limit 3) |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in content["compress"]:
        figures = (run[k] for k in COLUMNS)
        lines.append(f"| {', '.join(run['targets'])} | " + " | ".join(str(x) for x in figures) + " |")
    lines += [
        "",
        "Seconds of each stage of the last run:",
        "",
        "| role | stage | target | seconds |",
        "|---|---|---|---|",
    ]
    for stage in content["compress"][-1]["stages"]:
        lines.append(f"| {stage['role']} | {stage['stage']} | {stage['target'] or '-'} | {stage['seconds']} |")
    m, h = content["masks"], content["help"]
    lines += [
        "",
        f"Magnitude masks of all {m['linears']} linears of a ViT-B/16 ({m['weights'] / 1e6:.1f} M weights):"
        f" median {m['median_seconds']} s of {m['n']}, first {m['first_seconds']} s (limit 0.5 s).",
        "",
        f"`gpusq --help`: median {h['median_seconds']} s of {h['n']} (limit 0.3 s);"
        f" torch {'imported' if h['imports_torch'] else 'not imported'}.",
    ]
    return "\n".join(lines) + "\n"


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Everything that is measured, with its conditions."""
    environment = environment_of(given.threads)
    before = host_conditions()
    with tempfile.TemporaryDirectory(prefix="gpusq-speed-") as name:
        scratch = Path(name)
        write_images(given.data, scratch / "images")
        runs = [
            compress(scratch / "images", scratch / f"store-{i}", targets, environment)
            for i, targets in enumerate(TARGETS)
        ]
    return {
        "command": f"python benchmarks/post_training_speed.py --threads {given.threads} --repeats {given.repeats}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "how": HOW + f" {given.threads} threads.",
        "compress": runs,
        "masks": masks(given.threads, given.repeats, environment),
        "help": help_page(given.repeats, environment),
        "limits": LIMITS,
        "host": before | {"threads": {"OMP_NUM_THREADS": str(given.threads), "OMP_WAIT_POLICY": "PASSIVE"}},
        "load_before": before.get("load_average"),
        "load_after": host_conditions().get("load_average"),
    }


def main() -> None:
    """Measure, write, compare with the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, help="folder of the Fashion-MNIST files (default: as gpusq)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10, help="of the masks and of --help")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    content = measure(given)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    given.out.with_suffix(".md").write_text(page(content), encoding="utf-8")
    print(page(content))
    over = over_limits(content)
    if over:
        raise SystemExit("over the limit: " + "; ".join(over))


if __name__ == "__main__":
    main()
