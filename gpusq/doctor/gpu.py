"""The GPU: driver, CUDA, compute capability; on a Jetson the L4T release, the JetPack and the power mode."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass

from gpusq.doctor.finding import Finding
from gpusq.doctor.machine import Machine

CHIP_CAPABILITY = {"tegra194": "7.2", "tegra234": "8.7", "tegra264": "11.0"}
"""Compute capability by the chip in the device tree: Xavier, Orin, Thor (CUDA C++ programming guide)."""
JETPACK = {"34": "5", "35": "5", "36": "6", "38": "7", "39": "7"}
"""Major version of JetPack by that of the L4T release. Source: NVIDIA's Jetson Linux archive."""
SMI = ("nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader")
ASK_CUDA = """
import json
try:
    from cuda.bindings import runtime as cuda
except ImportError:
    from cuda import cudart as cuda
attributes = cuda.cudaDeviceAttr
major, minor = attributes.cudaDevAttrComputeCapabilityMajor, attributes.cudaDevAttrComputeCapabilityMinor
ask = lambda which: cuda.cudaDeviceGetAttribute(which, 0)[1]
error, count = cuda.cudaGetDeviceCount()
if int(error) or not count:
    raise SystemExit(1)
name = cuda.cudaGetDeviceProperties(0)[1].name
print(json.dumps({"capability": f"{ask(major)}.{ask(minor)}", "name": name.rstrip(b"\\0").decode(),
                  "driver_cuda": cuda.cudaDriverGetVersion()[1]}))
"""


@dataclass(frozen=True)
class Gpu:
    """kind: "jetson", "nvidia" or "none". capability: like "8.7", None where nothing told it. l4t: like "36.4.3"."""

    kind: str
    name: str = ""
    capability: str | None = None
    driver: str | None = None
    cuda: str | None = None
    l4t: str | None = None

    @property
    def jetson(self) -> bool:
        """Whether this is an integrated GPU of a Jetson."""
        return self.kind == "jetson"


def look_for_gpu(machine: Machine) -> Gpu:
    """What the device tree, nvidia-smi, the kernel module's file and CUDA itself say; the last only where needed."""
    release = machine.first_line("etc/nv_tegra_release")
    chip = _chip(machine)
    driver, cuda = _driver(machine), _toolkit(machine)
    if release or chip:
        known = CHIP_CAPABILITY.get(chip or "")
        asked = {} if known else _ask_cuda(machine)
        model = machine.first_line("proc/device-tree/model") or "Jetson"
        capability = known or asked.get("capability")
        return Gpu("jetson", model, capability, driver, cuda or asked.get("cuda"), l4t_version(release or ""))
    name, capability, smi_driver = _nvidia_smi(machine)
    if not (driver or smi_driver):
        return Gpu("none", cuda=cuda)
    asked = {} if capability else _ask_cuda(machine)
    return Gpu(
        "nvidia",
        name or asked.get("name", "NVIDIA GPU"),
        capability or asked.get("capability"),
        driver or smi_driver,
        cuda or asked.get("cuda"),
    )


def l4t_version(line: str) -> str | None:
    """ "# R36 (release), REVISION: 4.3, GCID: ..." -> "36.4.3"."""
    found = re.search(r"R(\d+)\b.*REVISION:\s*([\d.]+)", line)
    return f"{found.group(1)}.{found.group(2)}" if found else None


def _chip(machine: Machine) -> str | None:
    names = re.findall(r"nvidia,(tegra\d+)\b", machine.read("proc/device-tree/compatible") or "")
    return names[-1] if names else None


def _driver(machine: Machine) -> str | None:
    """ "NVRM version: NVIDIA UNIX x86_64 Kernel Module  384.98  Thu Oct ..." -> "384.98"."""
    found = re.search(r"NVRM version:.*?\s(\d+\.[\d.]+)\s", machine.read("proc/driver/nvidia/version") or "")
    return found.group(1) if found else None


def _toolkit(machine: Machine) -> str | None:
    try:
        said = json.loads(machine.read("usr/local/cuda/version.json") or "{}")
        return str(said["cuda"]["version"])
    except (ValueError, KeyError, TypeError):
        return None


def _nvidia_smi(machine: Machine) -> tuple[str, str | None, str | None]:
    """(name, compute capability, driver) of the first GPU; a driver before 510 does not know compute_cap."""
    lines = (machine.run(SMI) or "").strip().splitlines()
    parts = [part.strip() for part in lines[0].split(",")] if lines else []
    if len(parts) != 3:
        return "", None, None
    capability = parts[1] if re.fullmatch(r"\d+\.\d", parts[1]) else None
    return parts[0], capability, parts[2]


def _ask_cuda(machine: Machine) -> dict[str, str]:
    """Name, capability and the driver's CUDA version from cuda-python in a process of its own; {} where it cannot."""
    try:
        said = json.loads(machine.run((sys.executable, "-c", ASK_CUDA)) or "{}")
    except ValueError:
        return {}
    if "driver_cuda" in said:
        number = int(said.pop("driver_cuda"))
        said["cuda"] = f"{number // 1000}.{number % 1000 // 10} (driver)"
    return {str(key): str(value) for key, value in said.items()}


def gpu_findings(gpu: Gpu, machine: Machine) -> list[Finding]:
    """GPU, driver, compute capability and CUDA; with a Jetson also JetPack and power mode."""
    if gpu.kind == "none":
        mend = "GPU targets give bundles here; finish them on the device"
        return [Finding("GPU", "absent", "no NVIDIA driver", mend), *_cuda(gpu)]
    found = [Finding("GPU", "ok", gpu.name), _capability(gpu), _driver_finding(gpu), *_cuda(gpu)]
    return [*found, _jetpack(gpu), _power_mode(machine)] if gpu.jetson else found


def _capability(gpu: Gpu) -> Finding:
    if gpu.capability is None:
        mend = (
            "pip install '.[gpu]' in a clone of gpusq (cuda-python asks the device); "
            "in a container check that the GPU is passed in"
        )
        return Finding("compute capability", "absent", "nothing here tells it", mend)
    return Finding("compute capability", "ok", gpu.capability)


def _driver_finding(gpu: Gpu) -> Finding:
    if gpu.driver:
        return Finding("driver", "ok", gpu.driver)
    if gpu.jetson:
        return Finding("driver", "ok", "part of the L4T release")
    return Finding("driver", "problem", "the NVIDIA driver is not loaded", "install or load it: `nvidia-smi` must work")


def _cuda(gpu: Gpu) -> list[Finding]:
    if gpu.cuda:
        return [Finding("CUDA", "ok", gpu.cuda)]
    if gpu.kind == "none":
        return []
    mend = "none needed where TensorRT's wheels bring the CUDA libraries; on a Jetson: sudo apt install nvidia-jetpack"
    return [Finding("CUDA", "absent", "no toolkit in /usr/local/cuda", mend)]


def _jetpack(gpu: Gpu) -> Finding:
    if gpu.l4t is None:
        mend = "in a container start it with --runtime nvidia; on the device: cat /etc/nv_tegra_release"
        return Finding("JetPack", "absent", "no /etc/nv_tegra_release", mend)
    major = JETPACK.get(gpu.l4t.split(".")[0])
    got = f"L4T {gpu.l4t}" + (f", JetPack {major}" if major else ", JetPack unknown")
    if major in ("6", "7"):
        return Finding("JetPack", "ok", got)
    return Finding("JetPack", "problem", got, "gpusq is written for JetPack 6 (L4T 36) and 7 (L4T 38, 39)")


def _power_mode(machine: Machine) -> Finding:
    """The mode decides the clocks, so a timing without it says nothing."""
    found = re.search(r"NV Power Mode:\s*(\S+)", machine.run(("nvpmodel", "-q")) or "")
    if found is None:
        mend = "run `sudo nvpmodel -q` on the device itself; a container cannot see or set it"
        return Finding("power mode", "absent", "nvpmodel gave no answer", mend)
    mode = found.group(1)
    if mode.upper().startswith("MAXN"):
        return Finding("power mode", "ok", mode)
    return Finding("power mode", "ok", mode, "for the fastest engine: sudo nvpmodel -m 0 && sudo jetson_clocks")
