"""What this machine can build and run: each finding with what was seen and how to mend it. No torch."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

State = Literal["ok", "absent", "problem"]

LIBRARIES: tuple[tuple[str, str, str], ...] = (
    ("torch", "host", "prune, qat and export"),
    ("transformers", "host", "hf: and new: models"),
    ("onnx", "host", "export"),
    ("onnxruntime", "host", "parity checks and CPU engines"),
    ("openvino", "host", "CPU engines (the faster ones)"),
    ("tensorrt-rtx-cu13", "rtx", "the parse-and-build check of TensorRT bundles without a GPU"),
    ("tensorrt", "tensorrt", "finishing bundles on A100 and AGX Orin"),
    ("nvidia-modelopt", "modelopt", "ranges from its calibrators (--calibrator modelopt)"),
    ("timm", "timm", "timm:NAME models"),
)
MIN_FREE_GIB = 2.0
MIN_MEMORY_GIB = 3.0


@dataclass(frozen=True)
class Finding:
    """what: the thing looked at; got: what was seen; do: the mend, empty where none is needed."""

    what: str
    state: State
    got: str
    do: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def examine() -> list[Finding]:
    """All findings, the machine first, then the libraries. "absent" is a missing option, "problem" is not."""
    return [_python(), _processor(), _memory(), _disk(), _gpu(), *(_library(*entry) for entry in LIBRARIES)]


def _python() -> Finding:
    got = platform.python_version()
    if (3, 10) <= sys.version_info[:2] <= (3, 13):
        return Finding("Python", "ok", got)
    return Finding("Python", "problem", got, "use Python 3.10 to 3.13")


def _processor() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    flags = _cpu_flags()
    int8 = [f for f in ("amx_int8", "avx512_vnni", "avx_vnni") if f in flags]
    got = f"{platform.machine()}, {cores} cores, INT8 instructions: {', '.join(int8) or 'none found'}"
    if platform.machine() == "x86_64" and not int8:
        return Finding("processor", "ok", got, "INT8 engines gain less here; measure with `gpusq bench`")
    return Finding("processor", "ok", got)


def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return set()
    return {word for line in text.splitlines() if line.startswith("flags") for word in line.split()}


def _memory() -> Finding:
    import psutil

    free = psutil.virtual_memory().available / 2**30
    if free < MIN_MEMORY_GIB:
        return Finding("memory", "problem", f"{free:.1f} GiB available", f"free {MIN_MEMORY_GIB:g} GiB for host stages")
    return Finding("memory", "ok", f"{free:.1f} GiB available")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    if free < MIN_FREE_GIB:
        return Finding("disk", "problem", f"{free:.1f} GiB free here", "free space, or put --store on another disk")
    return Finding("disk", "ok", f"{free:.1f} GiB free here")


def _gpu() -> Finding:
    jetson = Path("/etc/nv_tegra_release")
    if jetson.is_file():
        first = jetson.read_text(encoding="utf-8", errors="replace").splitlines()
        return Finding("GPU", "ok", f"Jetson, {first[0] if first else 'release unknown'}")
    driver = Path("/proc/driver/nvidia/version")
    if driver.is_file():
        first = driver.read_text(encoding="utf-8", errors="replace").splitlines()
        return Finding("GPU", "ok", first[0] if first else "NVIDIA driver")
    return Finding("GPU", "absent", "no NVIDIA driver", "GPU targets give bundles here; finish them on the device")


def _library(name: str, extra: str, purpose: str) -> Finding:
    try:
        return Finding(name, "ok", f"{version(name)}, for {purpose}")
    except PackageNotFoundError:
        return Finding(name, "absent", f"not installed; needed for {purpose}", f"pip install 'gpusq[{extra}]'")
