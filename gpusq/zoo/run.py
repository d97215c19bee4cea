"""All families, each in a process with limits of its own: one that fails, hangs or dies costs the table one row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import gpusq
from gpusq.zoo.families import Family
from gpusq.zoo.result import STEPS, FamilyResult

TAIL = 300


@dataclass(frozen=True)
class Limits:
    """Of one family: seconds of wall time; gibibytes of address space, 0 for no limit."""

    seconds: float = 900.0
    memory_gib: float = 24.0


def run_zoo(
    families: Sequence[Family], limits: Limits, said: Callable[[FamilyResult], None] | None = None
) -> list[FamilyResult]:
    """One result for each family, in order; `said` is told each as it comes."""
    found = []
    for family in families:
        found.append(run_in_process(family, limits))
        if said is not None:
            said(found[-1])
    return found


def child_command(family: Family, result: Path, limits: Limits) -> list[str]:
    """The command of the process that takes one family through the steps."""
    described = json.dumps(asdict(family))
    return [sys.executable, "-m", "gpusq.zoo.family", described, str(result), str(limits.memory_gib)]


def run_in_process(family: Family, limits: Limits) -> FamilyResult:
    """The family's result; where its process ends early, what it had reached, and how it ended."""
    with tempfile.TemporaryDirectory(prefix="gpusq-zoo-result-") as folder:
        path, begun = Path(folder) / "result.json", time.monotonic()
        why = _run(child_command(family, path, limits), limits.seconds)
        result = FamilyResult(family.name, family.model)
        if path.is_file() and path.stat().st_size:
            result = FamilyResult.from_json(json.loads(path.read_text(encoding="utf-8")))
        if why and not result.passed:
            step = STEPS[len(result.done)]
            result.why, result.seconds = f"{step}: {why}", round(time.monotonic() - begun, 1)
        return result


def _run(command: list[str], seconds: float) -> str:
    """How the process ended; empty where it ended well."""
    search = os.pathsep.join([str(Path(gpusq.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=seconds, check=False, env=os.environ | {"PYTHONPATH": search}
        )
    except subprocess.TimeoutExpired:
        return f"not done within {seconds:.0f} s"
    if done.returncode == 0:
        return ""
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return f"the process ended with status {done.returncode}: {lines[-1][-TAIL:] if lines else 'no message'}"
