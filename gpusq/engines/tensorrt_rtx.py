"""A real parse and build with TensorRT-RTX on a host without a GPU, in a process of its own.

`check_build` starts `python -m gpusq.engines.tensorrt_rtx`, so that a crash or a hang inside the library is an
EngineError here. The library is NVIDIA's under its own licence; nothing of it and no plan is kept, only the layer dump
is read. A plan of it cannot run in TensorRT: the check says that the graph parses, types and fuses, not how fast it is.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import gpusq
from gpusq.engines.rtx_layers import RtxCheck, parse_layers
from gpusq.errors import EngineError, MissingExtraError

Profile = Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
RESULT, LOG = "result.json", "log.txt"
LOG_TAIL_LINES = 5


def check_build(
    onnx_path: Path,
    capabilities: Sequence[str] = ("8.0", "8.6"),
    profile: Profile | None = None,
    *,
    timeout_s: float = 900.0,
) -> tuple[RtxCheck, ...]:
    """Build the FP16 model once per compute capability and read the layer dump; a refusal is a check with ok False.

    profile: {input name: (min, opt, max) shapes}, needed for a dynamic batch. timeout_s: for each build.
    Raises MissingExtraError without the library, EngineError with the last log lines where it crashes or hangs.
    """
    if importlib.util.find_spec("tensorrt_rtx") is None:
        raise MissingExtraError("tensorrt-rtx-cu13", "rtx", "checking the build with TensorRT-RTX")
    return tuple(_in_subprocess(onnx_path, capability, profile or {}, timeout_s) for capability in capabilities)


def child_command(onnx_path: Path, capability: str, profile: Profile, directory: Path) -> list[str]:
    """The command of the process that builds for one capability and writes its result into `directory`."""
    shapes = json.dumps({name: [list(shape) for shape in three] for name, three in profile.items()})
    return [sys.executable, "-m", __name__, str(onnx_path.resolve()), capability, shapes, str(directory)]


def _in_subprocess(onnx_path: Path, capability: str, profile: Profile, timeout_s: float) -> RtxCheck:
    with tempfile.TemporaryDirectory(prefix="gpusq-rtx-") as scratch:
        directory = Path(scratch)
        command = child_command(onnx_path, capability, profile, directory)
        search = os.pathsep.join([str(Path(gpusq.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=timeout_s, check=False, env=os.environ | {"PYTHONPATH": search}
            )
        except subprocess.TimeoutExpired as error:
            raise _died(directory, capability, f"no answer within {timeout_s:.0f} s", b"") from error
        result = directory / RESULT
        if done.returncode != 0 or not result.is_file():
            raise _died(directory, capability, f"exit status {done.returncode}", done.stderr)
        return RtxCheck.from_json(json.loads(result.read_text()))


def _died(directory: Path, capability: str, how: str, stderr: bytes) -> EngineError:
    log = directory / LOG
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    lines += stderr.decode(errors="replace").splitlines()
    tail = " | ".join(line.strip()[:200] for line in lines[-LOG_TAIL_LINES:])
    return EngineError(
        f"the TensorRT-RTX build for compute capability {capability} must finish",
        got=f"{how}; last log lines: {tail or 'none'}",
        do="run the build again; if it repeats, build without the check and report the log lines",
    )


def build(onnx_path: Path, capability: str, profile: Profile, log_path: Path) -> RtxCheck:
    """Build in this process; INFO and worse are also written to `log_path`, line by line, for a post-mortem."""
    from gpusq.engines.tensorrt import PlanOptions, build_plan, load_library

    start = time.monotonic()
    with log_path.open("w", buffering=1) as log_file:
        options = PlanOptions(profiles=(profile,) if profile else (), compute_capabilities=(capability,))
        try:
            built = build_plan(
                load_library("tensorrt-rtx"),
                onnx_path.read_bytes(),
                options,
                on_message=lambda message: log_file.write(message + "\n"),
            )
        except EngineError as error:
            return RtxCheck(capability, False, time.monotonic() - start, 0, errors=(f"{error.what}: {error.got}",))
    return RtxCheck(capability, True, built.seconds, len(built.plan), parse_layers(built.layer_dump))


def main(arguments: Sequence[str]) -> None:
    """The child process: ONNX path, capability, profile as JSON, directory for the result and the log."""
    parser = argparse.ArgumentParser(prog="gpusq.engines.tensorrt_rtx")
    for name in ("onnx", "capability", "profile", "directory"):
        parser.add_argument(name)
    given = parser.parse_args(arguments)
    directory = Path(given.directory)
    check = build(Path(given.onnx), given.capability, json.loads(given.profile), directory / LOG)
    (directory / RESULT).write_text(json.dumps(check.to_json()))


if __name__ == "__main__":
    main(sys.argv[1:])
