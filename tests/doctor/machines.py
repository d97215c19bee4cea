"""Machines to examine: made-up root folders that hold what real ones print. Each text says where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gpusq.doctor import Machine

# recorded: rbonghi/jetson_stats#864 (Jetson AGX Orin Developer Kit, JetPack 7.2)
R39 = (
    "# R39 (release), REVISION: 2.0, GCID: 45755727, BOARD: generic, EABI: aarch64, "
    "DATE: Mon Jun  1 09:28:48 PM UTC 2026\n# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
)
# recorded: L4T 36.4.3 (JetPack 6.2), as several projects quote the file
R36 = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
    "DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
)
# recorded: rbonghi/jetson_stats#711 (Jetson AGX Thor Developer Kit, JetPack 7.0)
R38 = (
    "# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic, EABI: aarch64, "
    "DATE: Fri Aug 22 00:55:42 UTC 2025\n"
)
# recorded: NVIDIA/jetson-gpio#125, with the zero bytes that the terminal swallowed put back
ORIN_COMPATIBLE = "nvidia,p3737-0000+p3701-0005\0nvidia,p3701-0005\0nvidia,tegra234\0nvidia,tegra23x\0"
# recorded: rbonghi/jetson_stats#711, likewise
THOR_COMPATIBLE = "nvidia,p4071-0000+p3834-0008\0nvidia,p3834-0008\0nvidia,tegra264\0"
# recorded: anduril/jetpack-nixos#460
NVPMODEL_MAXN = "NV Power Mode: MAXN\n0\n"
# recorded: as many users of an AGX Orin print it
NVPMODEL_30W = "NV Power Mode: MODE_30W\n2\n"
# recorded: dylanaraps/neofetch#876
NVRM = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  384.98  Thu Oct 26 15:16:01 PDT 2017\nGCC version: 7.2.0\n"
# by hand, after the open module's form ("Open Kernel Module for x86_64")
NVRM_OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.09  Release Build  (builder)\n"
# recorded form: triton-inference-server/server#8070 (columns in our order); the A100 line by hand
SMI_A100 = "NVIDIA A100-SXM4-40GB, 8.0, 580.126.09\n"
SMI_OLD = 'Field "compute_cap" is not a valid field to query.\n'  # recorded: huggingface/candle#733, drivers before 510
# by hand: JetPack's file in the form that CUDA 11 and later install
CUDA_12_6 = '{"cuda": {"name": "CUDA SDK", "version": "12.6.11"}}'
CUDA_13_2 = '{"cuda": {"name": "CUDA SDK", "version": "13.2.1"}}'


def machine(
    root: Path,
    files: dict[str, str] | None = None,
    programs: dict[str, str] | None = None,
    packages: dict[str, str] | None = None,
    broken: dict[str, str] | None = None,
    folders: tuple[Path, ...] = (),
    environment: dict[str, str] | None = None,
) -> Machine:
    """A machine under `root`: texts of files, outputs of programs by name, versions of packages, failing imports."""
    for name, text in (files or {}).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    have = packages or {}

    def imports(module: str) -> str | None:
        if module in (broken or {}):
            return (broken or {})[module]
        return "" if module in have or any(n.startswith(module.replace("_", "-")) for n in have) else None

    return Machine(
        root=root,
        run=programs_named(programs or {}),
        installed=have.get,
        imports=imports,
        folders=lambda: folders,
        environment=environment or {},
        here=root,
    )


def programs_named(outputs: dict[str, str]) -> Callable[[Sequence[str]], str | None]:
    """Programs that print; those not named are missing."""
    return lambda command: outputs.get(Path(command[0]).name)


def orin(root: Path, release: str = R36, power: str = NVPMODEL_MAXN, **more: object) -> Machine:
    """A Jetson AGX Orin with JetPack 6 (or what `release` says)."""
    files = {
        "etc/nv_tegra_release": release,
        "proc/device-tree/compatible": ORIN_COMPATIBLE,
        "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
        "usr/local/cuda/version.json": CUDA_12_6 if release == R36 else CUDA_13_2,
    }
    return machine(root, files, {"nvpmodel": power}, **more)  # type: ignore[arg-type]


def a100(root: Path, **more: object) -> Machine:
    """A server with an A100."""
    return machine(root, {"proc/driver/nvidia/version": NVRM_OPEN}, {"nvidia-smi": SMI_A100}, **more)  # type: ignore[arg-type]


def libraries(root: Path, *names: str, data: bytes = b"\x7fELF") -> Path:
    """A folder with library files of these names."""
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / name).write_bytes(data)
    return root
