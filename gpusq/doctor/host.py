"""Python, processor, memory, disk and optional libraries."""

from __future__ import annotations

import os
import platform
import shutil
import sys

from gpusq.doctor.finding import Finding
from gpusq.doctor.machine import Machine

LIBRARIES: tuple[tuple[str, str, str], ...] = (
    ("torch", "host", "prune, qat and export"),
    ("transformers", "host", "hf: and new: models"),
    ("onnx", "host", "export"),
    ("onnxruntime", "host", "parity checks and CPU engines"),
    ("openvino", "host", "CPU engines (the faster ones)"),
    ("cuda-python", "gpu", "running and timing engines on a GPU"),
    ("nvidia-modelopt", "modelopt", "ranges from its calibrators (--calibrator modelopt)"),
    ("timm", "timm", "timm:NAME models"),
)
MIN_FREE_GIB = 2.0
MIN_MEMORY_GIB = 3.0


def python(machine: Machine) -> Finding:
    """The interpreter's version."""
    got = platform.python_version()
    if (3, 10) <= sys.version_info[:2] <= (3, 13):
        return Finding("Python", "ok", got)
    return Finding("Python", "problem", got, "use Python 3.10 to 3.13")


def processor(machine: Machine) -> Finding:
    """Cores and INT8 instructions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    flags = {
        word
        for line in (machine.read("proc/cpuinfo") or "").splitlines()
        if line.startswith("flags")
        for word in line.split()
    }
    int8 = [f for f in ("amx_int8", "avx512_vnni", "avx_vnni") if f in flags]
    got = f"{platform.machine()}, {cores} cores, INT8 instructions: {', '.join(int8) or 'none found'}"
    if platform.machine() == "x86_64" and not int8:
        return Finding("processor", "ok", got, "INT8 engines gain less here; measure with `gpusq bench`")
    return Finding("processor", "ok", got)


def memory(machine: Machine) -> Finding:
    """Memory that can still be had."""
    import psutil

    try:
        free = psutil.virtual_memory().available / 2**30
    except OSError as error:
        return Finding("memory", "absent", f"it cannot be read: {error.strerror}", "mount /proc, as containers do")
    if free < MIN_MEMORY_GIB:
        do = f"free {MIN_MEMORY_GIB:g} GiB; on a Jetson the GPU takes its memory from the same pool (close the desktop)"
        return Finding("memory", "problem", f"{free:.1f} GiB available", do)
    return Finding("memory", "ok", f"{free:.1f} GiB available")


def disk(machine: Machine) -> Finding:
    """Space where the command was started."""
    free = shutil.disk_usage(machine.here).free / 2**30
    if free < MIN_FREE_GIB:
        return Finding("disk", "problem", f"{free:.1f} GiB free here", "free space, or put --store on another disk")
    return Finding("disk", "ok", f"{free:.1f} GiB free here")


def libraries(machine: Machine) -> list[Finding]:
    """The optional libraries, each with what it is for."""
    return [_library(machine, *entry) for entry in LIBRARIES]


def _library(machine: Machine, name: str, extra: str, purpose: str) -> Finding:
    found = machine.installed(name)
    if found is not None:
        return Finding(name, "ok", f"{found}, for {purpose}")
    mend = f"pip install '.[{extra}]' in a clone of gpusq"
    return Finding(name, "absent", f"not installed; needed for {purpose}", mend)
