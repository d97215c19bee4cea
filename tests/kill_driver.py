"""Kills small compress runs for test_pipeline_kills.py: python kill_driver.py DIR KILLS.

This process loads the libraries once and computes nothing; each run is a fork of it, so that a start costs
milliseconds. One store is killed and started again until its run is finished, then looked at and compared with the
undisturbed run; then the next store begins, until all kills are spent. Prints one JSON object.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # no thread may exist when this process forks
os.environ["GPUSQ_DEBUG"] = "1"

from gpusq.artifacts import Store
from gpusq.recipe import Recipe
from tests.chain import image_folder, recipe_of, run_chain

PRELOADED = (
    "accelerate",
    "onnx",
    "onnx_ir.passes.common",
    "onnxruntime",
    "onnxscript",
    "torch",
    "torch.export",
    "torch.onnx._internal.exporter._core",
    "torch.onnx._internal.exporter._torchlib.ops.nn",
    "transformers.models.vit.modeling_vit",
    "gpusq.engines.onnxruntime_engine",
    "gpusq.graph.export_onnx",
    "gpusq.graph.fp16",
    "gpusq.graph.lint",
    "gpusq.models",
    "gpusq.quantization",
    "gpusq.reports",
    "gpusq.stages.model_files",
    "gpusq.stages.pruning",
    "gpusq.training",
)
EQUAL_KINDS = ("dense", "sparse", "quantized", "onnx")
CHECKPOINTED = ("prune.checkpoint_every=1", "qat.checkpoint_every=1", "prune.epochs=12", "qat.epochs=12")


def run_in_child(store: Path, recipe: Recipe) -> int:
    """Start a run in a fork of this process."""
    child = os.fork()
    if child:
        return child
    try:
        import torch

        torch.set_num_threads(1)
        run_chain(store, recipe)
        os._exit(0)
    except BaseException as error:  # noqa: BLE001  (a child of fork must never return)
        import traceback

        traceback.print_exception(error)
        os._exit(1)


def ended(child: int) -> bool:
    """Wait for a child; whether it ended by itself. Leaves this program where it failed by itself."""
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("a run failed by itself")
    return os.WIFEXITED(status)


def digests(store: Path) -> list[tuple[str, str]]:
    """(kind, digest) of the artifacts whose bytes must be equal in all runs."""
    return sorted((a.kind, a.digest) for a in Store(store).artifacts() if a.kind in EQUAL_KINDS)


def look(store: Path) -> None:
    """Nothing is torn, whatever has just been killed."""
    problems = {name: found for name, found in Store(store).verify_all().items() if found}
    if problems:
        raise SystemExit(f"torn: {problems}")


def main(root: Path, kills: int) -> dict[str, object]:
    for name in PRELOADED:
        importlib.import_module(name)
    recipe = recipe_of("new:vit-test", image_folder(root / "images"), *CHECKPOINTED)
    start = time.monotonic()
    ended(run_in_child(root / "whole", recipe))
    seconds = time.monotonic() - start
    expected = digests(root / "whole")
    draw = random.Random(11)  # noqa: S311
    killed, stores, resumed = 0, 0, 0
    while killed < kills:
        stores += 1
        store = root / f"store-{stores}"
        done = False
        while not done:
            child = run_in_child(store, recipe)
            if killed < kills:
                training = not any((store / "artifacts").glob("quantized-*"))
                time.sleep(draw.uniform(0, 0.2 if training else 0.5) * seconds)
                os.kill(child, signal.SIGKILL)
            done = ended(child)
            killed += not done
            resumed += any((store / "checkpoints").glob("*/step-*"))
            look(store)
        if digests(store) != expected:
            raise SystemExit(f"other digests: {digests(store)} and {expected}")
    return {
        "killed": killed,
        "stores": stores,
        "resumed": resumed,
        "seconds": seconds,
        "kinds": [k for k, _ in expected],
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))  # noqa: T201
