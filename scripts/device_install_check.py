"""Run by test_device_install.sh inside an environment with the device side alone: finishes bundles and states figures.

Arguments: a folder with the bundles (store/artifacts), an empty folder to work in, the gpusq command, where the figures
go as JSON. Ends with an error where anything that must hold does not.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ABSENT = ("torch", "transformers", "onnx", "onnxruntime", "openvino", "sklearn", "modelopt")
NOT_OURS = ("pip", "setuptools", "wheel", "pkg_resources", "_distutils_hack")
LARGEST = 6
STARTS = 5


def fail(text: str) -> None:
    sys.exit(f"device install: {text}")


def run(*command: str, allowed: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in allowed:
        fail(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout if done.returncode == 0 else done.stderr


def megabytes(path: Path) -> float:
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file() and not f.is_symlink()) / 1e6


def sizes() -> dict[str, Any]:
    """MB of all that pip installed for gpusq, and of the largest folders in it."""
    packages = Path(sysconfig.get_path("purelib"))
    folders = {p.name: megabytes(p) for p in packages.iterdir() if p.is_dir() and p.name not in NOT_OURS}
    largest = sorted(folders, key=lambda name: -folders[name])[:LARGEST]
    found: dict[str, Any] = {"all": round(sum(folders.values()), 1), "gpusq": round(folders["gpusq"], 2)}
    return found | {"largest": {name: round(folders[name], 1) for name in largest}}


def fastest_s(*command: str) -> float:
    """The least of a few starts: what the program needs, not what the machine was busy with."""
    taken = []
    for _ in range(STARTS):
        began = time.perf_counter()
        run(*command)
        taken.append(time.perf_counter() - began)
    return round(min(taken), 3)


def bundles(store: Path) -> list[dict[str, Any]]:
    """The compressed model's bundle of each target, by its layer states."""
    found = []
    for path in sorted((store / "artifacts").glob("bundle-*")):
        layers = json.loads((path / "layers.json").read_text())
        if any(layer["int8"] for layer in layers):
            found.append({"path": path, "target": json.loads((path / "artifact.json").read_text())["target"]})
    return found


def finish(bundle: dict[str, Any], work: Path, gpusq: str) -> dict[str, Any]:
    """Build, seal, verify, and show that a changed engine and a changed bundle are refused."""
    out, receipt = work / bundle["target"], work / f"{bundle['target']}.json"
    began = time.perf_counter()
    command = (gpusq, "build", str(bundle["path"]), "--builder", "tensorrt-rtx", "--out", str(out))
    done = json.loads(run(*command, "--receipt", str(receipt), "--json", "--quiet"))
    seconds = time.perf_counter() - began
    if set(done["engines"]) != {"model", "dense twin"}:
        fail(f"both engines were expected, got {sorted(done['engines'])}")
    for engine in done["engines"].values():
        run(gpusq, "verify", engine["path"])
    kept = json.loads(receipt.read_text())
    if not kept["status"].startswith("not run: ") or kept["rows"]:
        fail(f"without a GPU nothing is measured, got status {kept['status']!r} and {len(kept['rows'])} rows")
    refuse_changed(out, work, gpusq)
    facts = done["engines"]["model"]
    return {
        "target": bundle["target"],
        "seconds": round(seconds, 1),
        "plan_bytes": facts["plan_bytes"],
        "capabilities": facts["place"]["capabilities"],
        "stand_in": facts["stand_in"],
        "status": kept["status"],
        "layers": kept["engines"][0]["layer_verdict"],
    }


def refuse_changed(engine: Path, work: Path, gpusq: str) -> None:
    copy = work / "changed"
    shutil.copytree(engine, copy)
    plan = copy / "engine.plan"
    plan.write_bytes(plan.read_bytes()[:-1])
    run(gpusq, "verify", str(copy), allowed=(1,))
    run(gpusq, "bench", str(copy), allowed=(5,))
    message = run(gpusq, "bench", str(engine), allowed=(8,))
    if "compute capability" not in message:
        fail(f"bench without a GPU must say what it needs, got {message!r}")
    shutil.rmtree(copy)


def cuda_contract() -> str:
    """The installed cuda-python has every call that gpusq makes and takes its arguments; what a device here says.

    Without a driver every call is refused as an error of gpusq: a TypeError would show a signature that does not fit.
    """
    import numpy

    from gpusq.engines.cuda import CudaRuntime, missing_names, open_cuda, runtime_module
    from gpusq.errors import EngineError

    runtime = runtime_module()
    missing = missing_names(runtime)
    if missing:
        fail(f"cuda-python {version('cuda-python')} lacks {', '.join(missing)}")
    try:
        return open_cuda().device().name
    except EngineError as error:
        absent = f"no device ({error.got})"
    cuda = CudaRuntime.__new__(CudaRuntime)
    cuda._runtime, cuda._index, cuda._handles = runtime, 0, {}
    array, number = numpy.zeros(4, numpy.float32), 4096
    calls: dict[str, tuple[Any, ...]] = {
        "device": (), "allocate": (16,), "free": (number,), "to_device": (number, array, number),
        "to_host": (array, number, number), "stream": (), "synchronize": (number,), "destroy_stream": (number,),
        "event": (), "record": (number, number), "wait_event": (number, number), "elapsed_ms": (number, number),
        "destroy_event": (number,), "begin_capture": (number,), "end_capture": (number,), "launch": (number, number),
        "destroy_graph": (number,),
    }  # fmt: skip
    for name, arguments in calls.items():
        try:
            getattr(cuda, name)(*arguments)
        except EngineError:
            continue
        fail(f"CudaRuntime.{name} must be refused without a driver")
    return f"{absent}; {len(calls)} calls take what gpusq passes"


def main(store: Path, work: Path, gpusq: str, figures: Path) -> None:
    present = [name for name in ABSENT if importlib.util.find_spec(name) is not None]
    if present:
        fail(f"the device side must not have {', '.join(present)}")
    result = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 1),
        "versions": {name: version(name) for name in ("gpusq", "numpy", "cuda-python", "tensorrt_rtx_cu13")},
        "megabytes": sizes(),
        "import_gpusq_s": fastest_s(sys.executable, "-c", "import gpusq"),
        "import_finishing_s": fastest_s(sys.executable, "-c", "import gpusq.finishing"),
        "gpusq_help_s": fastest_s(gpusq, "--help"),
        "bare_python_s": fastest_s(sys.executable, "-c", "pass"),
        "cuda": cuda_contract(),
        "engines": [finish(bundle, work, gpusq) for bundle in bundles(store)],
    }
    if {engine["target"] for engine in result["engines"]} != {"a100-40gb", "agx-orin-64gb"}:  # type: ignore[attr-defined]
        fail("bundles for A100 and AGX Orin were expected")
    figures.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
