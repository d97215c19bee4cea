"""TensorRT here: which libraries, whether they import, whether they carry code for this GPU."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gpusq.doctor.finding import Finding
from gpusq.doctor.gpu import Gpu
from gpusq.doctor.gpu_code import GpuCode, library_folders, tensorrt_libraries
from gpusq.doctor.machine import Machine

LIBRARIES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("tensorrt", ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"), "finishing bundles on A100 and AGX Orin"),
    ("tensorrt_rtx", ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12"), "the parse-and-build check without a GPU"),
    ("tensorrt_lean", ("tensorrt-lean-cu13", "tensorrt-lean-cu12", "tensorrt_lean"), "running engines only"),
)
INSTALL = {
    "tensorrt": "pip install '.[tensorrt]' in a clone of gpusq",
    "tensorrt_rtx": "pip install '.[rtx]' in a clone of gpusq",
    "tensorrt_lean": "not needed by gpusq; pip install tensorrt-lean-cu13 where only the runtime is wanted",
}
ON_JETSON = "sudo apt install nvidia-jetpack, and make the virtual environment with --system-site-packages"


def tensorrt_version(machine: Machine) -> str | None:
    """Version of the full TensorRT: of the Python package, else of libnvinfer.so.X.Y.Z on disk."""
    for name in LIBRARIES[0][1]:
        found = machine.installed(name)
        if found:
            return found
    for files in tensorrt_libraries(library_folders(machine)).values():
        for file in files:
            match = re.fullmatch(r"libnvinfer\.so\.(\d+\.\d+[\d.]*)", file.name)
            if match:
                return match.group(1)
    return None


def import_findings(machine: Machine, gpu: Gpu) -> list[Finding]:
    """One finding for each TensorRT library of Python."""
    return [_library(machine, gpu, *entry) for entry in LIBRARIES]


def _library(machine: Machine, gpu: Gpu, module: str, names: tuple[str, ...], purpose: str) -> Finding:
    version = next(filter(None, map(machine.installed, names)), None)
    error = machine.imports(module)
    mend = ON_JETSON if gpu.jetson and module == "tensorrt" else INSTALL[module]
    if error is None:
        return Finding(module, "absent", f"not installed; for {purpose}", mend)
    got = f"{version or 'version unknown'}, for {purpose}"
    if error:
        return Finding(module, "problem", f"{got}; it does not import: {error}", f"install it again: {mend}")
    return Finding(module, "ok", got)


def code_findings(gpu: Gpu, code: GpuCode) -> list[Finding]:
    """Whether the TensorRT library carries code for this GPU; nothing where either is missing."""
    what = "TensorRT code for this GPU"
    if not code.files or gpu.kind == "none":
        return []
    listed = ", ".join(f"sm_{n}" for n in sorted(code.named or code.cubins)) or "nothing that could be read"
    place = code.files[0].rpartition("/")[0]
    got = f"{place} carries {listed}"
    carried = code.carries(gpu.capability) if gpu.capability else None
    if carried is None:
        return [Finding(what, "absent", got, "build a small engine: only that shows it here")]
    if carried:
        return [Finding(what, "ok", got)]
    mend = f"take a TensorRT made for compute capability {gpu.capability}" + (
        "; on AGX Orin: 10.3 of JetPack 6, 10.16 of JetPack 7.2, or 11.4.1 and later" if gpu.capability == "8.7" else ""
    )
    return [
        Finding(what, "problem", f"{got}, not sm_{gpu.capability.replace('.', '')}" if gpu.capability else got, mend)
    ]


def versions_of(machine: Machine, names: Mapping[str, str] | tuple[str, ...]) -> dict[str, str]:
    """The installed ones of these distributions with their versions."""
    found = {name: machine.installed(name) for name in names}
    return {name: version for name, version in found.items() if version is not None}
