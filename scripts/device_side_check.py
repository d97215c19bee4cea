"""Run by test_device_side.sh inside an environment without torch: imports, commands, and a sealed artifact verified.

Arguments: an empty folder to work in, and the gpusq command of that environment.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

ROOMS = ("errors", "workload", "artifacts", "targets", "latency", "reports", "data", "engines", "finishing", "cli.main")


def output(*command: str, allowed: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in allowed:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def seal_small_bundle(store_folder: Path) -> Path:
    """Publish an artifact of kind "bundle" with one small file; return its folder."""
    from gpusq.artifacts import Store, artifact_key

    described = {
        "stage": "Build",
        "stage_version": 1,
        "params": {},
        "parents": (),
        "inputs": {},
        "target": "agx-orin",
        "toolchain": {},
    }
    key = artifact_key(**described)
    store = Store(store_folder)
    with store.lock(), store.staging(key) as staging:
        (staging / "bundle.json").write_text("{}")
        return store.publish(staging, kind="bundle", facts={}, key=key, **described).path


def main(work: Path, gpusq: str) -> None:
    if importlib.util.find_spec("torch") is not None:
        sys.exit("torch is installed here, so this check would prove nothing")
    for room in ROOMS:
        importlib.import_module(f"gpusq.{room}")
    output(gpusq, "--help")
    json.loads(output(gpusq, "doctor", "--json", allowed=(0, 1)))  # 1: it found something to mend on this machine
    bundle = seal_small_bundle(work / "store")
    output(gpusq, "verify", str(bundle))
    (bundle / "bundle.json").chmod(0o644)
    (bundle / "bundle.json").write_text("{ }")
    if subprocess.run([gpusq, "verify", str(bundle)], capture_output=True, check=False).returncode != 1:
        sys.exit("gpusq verify did not report (exit 1) a bundle whose bytes were changed")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
