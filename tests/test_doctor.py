"""What the machine can do is said with what was seen and how to mend it."""

from __future__ import annotations

import platform
import sys
from collections import namedtuple
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from gpusq import doctor


def finding(what: str) -> doctor.Finding:
    return next(f for f in doctor.examine() if f.what == what)


def test_every_finding_that_is_not_ok_has_a_mend() -> None:
    found = doctor.examine()
    assert len({f.what for f in found}) == len(found)
    assert all(f.got for f in found)
    assert all(f.do for f in found if f.state != "ok")


def test_libraries_are_told_with_their_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert version("torch") in finding("torch").got

    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", absent)
    assert finding("torch") == doctor.Finding(
        "torch", "absent", "not installed; needed for prune, qat and export", "pip install 'gpusq[host]'"
    )


def test_little_memory_and_disk_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    memory, disk = namedtuple("memory", "available"), namedtuple("disk", "free")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(2**30))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: disk(2**30))
    assert (finding("memory").state, finding("memory").got) == ("problem", "1.0 GiB available")
    assert (finding("disk").state, finding("disk").got) == ("problem", "1.0 GiB free here")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(2**34))
    assert finding("memory").state == "ok"


@pytest.mark.parametrize(("python", "state"), [((3, 9), "problem"), ((3, 10), "ok"), ((3, 14), "problem")])
def test_the_python_that_is_supported(monkeypatch: pytest.MonkeyPatch, python: tuple[int, int], state: str) -> None:
    monkeypatch.setattr(sys, "version_info", (*python, 0, "final", 0))
    assert doctor._python().state == state


def test_a_processor_without_int8_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(doctor, "_cpu_flags", lambda: {"sse2"})
    assert "none found" in finding("processor").got
    assert finding("processor").do
    monkeypatch.setattr(doctor, "_cpu_flags", lambda: {"avx512_vnni", "sse2"})
    assert "avx512_vnni" in finding("processor").got


@pytest.mark.parametrize(
    ("file", "text", "state", "needle"),
    [
        ("/etc/nv_tegra_release", "# R36 (release), REVISION: 4.3\nmore", "ok", "Jetson, # R36"),
        ("/proc/driver/nvidia/version", "NVRM version: 580\nmore", "ok", "NVRM version: 580"),
        ("/nowhere", "", "absent", "no NVIDIA driver"),
    ],
)
def test_the_gpu(monkeypatch: pytest.MonkeyPatch, file: str, text: str, state: str, needle: str) -> None:
    real = Path.is_file

    def is_file(self: Path) -> bool:
        names = ("/etc/nv_tegra_release", "/proc/driver/nvidia/version")
        return str(self) == file if str(self) in names else real(self)

    def read_text(self: Path, *_: Any, **__: Any) -> str:
        return text

    monkeypatch.setattr(Path, "is_file", is_file)
    monkeypatch.setattr(Path, "read_text", read_text)
    found = doctor._gpu()
    assert found.state == state
    assert needle in found.got
