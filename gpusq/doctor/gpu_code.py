"""Which GPUs a TensorRT library carries kernels for, read from its files alone: nothing is loaded."""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gpusq.doctor.machine import Machine

RESOURCE = re.compile(r"libnvinfer_builder_resource_sm(\d+)\.so")
LIBRARY = re.compile(r"libnvinfer(_builder_resource)?\.so(\.[\d.]+)?$")
SYSTEM_FOLDERS = (
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "usr/local/tensorrt/lib",
    "opt/tensorrt/lib",
    "usr/local/lib",
)
FATBIN_MAGIC = struct.pack("<I", 0xBA55ED50)
HEADER = struct.Struct("<IHHQ")  # magic, version, size of this header, bytes of entries after it
ENTRY = struct.Struct("<HHIQIIHHI")  # kind, _, size of this header, bytes, packed bytes, _, minor, major, sm
KIND_CUBIN = 2
LARGEST_ENTRY_HEADER = 4096


@dataclass(frozen=True)
class GpuCode:
    """files: where it was looked. named: sm numbers in names of builder resources. cubins: sm numbers of the machine
    code inside the libraries. Both empty where nothing could be told.
    """

    files: tuple[str, ...]
    named: frozenset[int]
    cubins: frozenset[int]

    def carries(self, capability: str) -> bool | None:
        """Whether there is code for "8.7"; None where the files do not tell. Names decide before the scan.

        Code for sm_86 does not count for 8.7: TensorRT refuses such a GPU although CUDA would run it
        (NVIDIA-ISAAC-ROS/isaac-ros-cli#22: "Target GPU SM 87 is not supported by this TensorRT release").
        """
        listed = self.named or self.cubins
        return sm_number(capability) in listed if listed else None


def sm_number(capability: str) -> int:
    """ "8.7" -> 87."""
    return int(capability.replace(".", ""))


def library_folders(machine: Machine) -> list[Path]:
    """Folders that may hold libnvinfer: LD_LIBRARY_PATH, the system's, those of installed wheels; existing ones."""
    own = [machine.root / name for name in SYSTEM_FOLDERS]
    given = machine.environment.get("LD_LIBRARY_PATH", "").split(":")
    asked = [machine.root / part.lstrip("/") for part in given if part]
    found = [folder for folder in (*asked, *own, *machine.folders()) if folder.is_dir()]
    return list(dict.fromkeys(found))


def tensorrt_libraries(folders: Iterable[Path]) -> dict[Path, list[Path]]:
    """Files of TensorRT by folder, links to a file of the same folder left out."""
    found = {folder: sorted(p for p in folder.glob("libnvinfer*.so*") if p.is_file()) for folder in folders}
    return {folder: [p for p in files if not p.is_symlink()] or files for folder, files in found.items() if files}


def gpu_code(machine: Machine) -> GpuCode:
    """What the TensorRT libraries of this machine carry. The folder found first is the one that the loader takes."""
    for files in tensorrt_libraries(library_folders(machine)).values():
        if not any(LIBRARY.match(file.name) for file in files):
            continue  # lean, dispatch or plugin libraries alone: they build nothing
        named = {int(m.group(1)) for m in (RESOURCE.match(file.name) for file in files) if m}
        scanned = () if named else [file for file in files if LIBRARY.match(file.name)]
        cubins = frozenset[int]().union(*(sm_of_cubins(file) for file in scanned))
        return GpuCode(tuple(str(file) for file in files), frozenset(named), cubins)
    return GpuCode((), frozenset(), frozenset())


def sm_of_cubins(library: Path) -> frozenset[int]:
    """The sm numbers of all machine code in a library's CUDA fat binaries; empty where it has none or cannot be read.

    The layout is not documented; it was checked against files made with nvcc 13.0 for sm_80, sm_87 and sm_90.
    """
    try:
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return frozenset(_fat_binaries(data))
    except (OSError, ValueError):  # an empty file cannot be mapped
        return frozenset()


def _fat_binaries(data: mmap.mmap) -> Iterable[int]:
    at = data.find(FATBIN_MAGIC)
    while at >= 0:
        end = at + len(FATBIN_MAGIC)
        if at + HEADER.size <= len(data):
            _, _, header, size = HEADER.unpack_from(data, at)
            if header == HEADER.size and size <= len(data) - at - header:
                yield from _cubins(data, at + header, at + header + size)
                end = at + header + size
        at = data.find(FATBIN_MAGIC, end)


def _cubins(data: mmap.mmap, start: int, end: int) -> Iterable[int]:
    while start + ENTRY.size <= end:
        kind, _, header, size, _, _, _, _, sm = ENTRY.unpack_from(data, start)
        if not ENTRY.size <= header <= LARGEST_ENTRY_HEADER:
            return
        if kind == KIND_CUBIN:
            yield sm
        start += header + size
