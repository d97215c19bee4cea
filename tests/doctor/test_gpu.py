"""Driver, CUDA, capability, JetPack and power mode, from the files and programs of imitated machines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gpusq.doctor.gpu import ASK_CUDA, gpu_findings, l4t_version, look_for_gpu
from gpusq.doctor.machine import Machine
from tests.doctor import machines
from tests.doctor.machines import a100, machine, orin


def told(seen: Machine) -> dict[str, tuple[str, str]]:
    return {f.what: (f.state, f.got) for f in gpu_findings(look_for_gpu(seen), seen)}


def test_an_orin_with_jetpack_6(tmp_path: Path) -> None:
    assert told(orin(tmp_path)) == {
        "GPU": ("ok", "NVIDIA Jetson AGX Orin Developer Kit"),
        "compute capability": ("ok", "8.7"),
        "driver": ("ok", "part of the L4T release"),
        "CUDA": ("ok", "12.6.11"),
        "JetPack": ("ok", "L4T 36.4.3, JetPack 6"),
        "power mode": ("ok", "MAXN"),
    }


@pytest.mark.parametrize(
    ("release", "compatible", "jetpack", "capability"),
    [
        (machines.R39, machines.ORIN_COMPATIBLE, "L4T 39.2.0, JetPack 7", "8.7"),
        (machines.R38, machines.THOR_COMPATIBLE, "L4T 38.2.0, JetPack 7", "11.0"),
    ],
)
def test_jetpack_7(tmp_path: Path, release: str, compatible: str, jetpack: str, capability: str) -> None:
    seen = machine(tmp_path, {"etc/nv_tegra_release": release, "proc/device-tree/compatible": compatible})
    found = told(seen)
    assert found["JetPack"] == ("ok", jetpack)
    assert found["compute capability"] == ("ok", capability)


def test_jetpack_5_is_a_problem(tmp_path: Path) -> None:
    assert told(orin(tmp_path, "# R35 (release), REVISION: 4.1, GCID: 1\n"))["JetPack"][0] == "problem"


def test_a_slower_power_mode_is_named_with_the_way_to_the_fastest(tmp_path: Path) -> None:
    seen = orin(tmp_path, power=machines.NVPMODEL_30W)
    found = {f.what: f for f in gpu_findings(look_for_gpu(seen), seen)}["power mode"]
    assert (found.state, found.got) == ("ok", "MODE_30W")
    assert "nvpmodel -m 0" in found.do


def test_a_container_on_a_jetson_has_no_device_tree_and_no_nvpmodel(tmp_path: Path) -> None:
    seen = machine(
        tmp_path, {"etc/nv_tegra_release": machines.R36}, {Path(sys.executable).name: '{"capability": "8.7"}'}
    )
    found = told(seen)
    assert found["compute capability"] == ("ok", "8.7")  # cuda-python asked the device
    assert found["power mode"][0] == "absent"


def test_a_server_with_an_a100(tmp_path: Path) -> None:
    assert told(a100(tmp_path)) == {
        "GPU": ("ok", "NVIDIA A100-SXM4-40GB"),
        "compute capability": ("ok", "8.0"),
        "driver": ("ok", "580.82.09"),
        "CUDA": ("absent", "no toolkit in /usr/local/cuda"),
    }


def test_an_old_driver_does_not_know_the_capability_but_cuda_does(tmp_path: Path) -> None:
    asked = json.dumps({"capability": "8.0", "name": "NVIDIA A100-SXM4-40GB", "driver_cuda": 12040})
    files, programs = {"proc/driver/nvidia/version": machines.NVRM}, {"nvidia-smi": machines.SMI_OLD}
    without = told(machine(tmp_path, files, programs))
    assert without["compute capability"][0] == "absent"
    assert without["driver"] == ("ok", "384.98")
    found = told(machine(tmp_path, files, programs | {Path(sys.executable).name: asked}))
    assert found["GPU"] == ("ok", "NVIDIA A100-SXM4-40GB")
    assert found["compute capability"] == ("ok", "8.0")
    assert found["CUDA"] == ("ok", "12.4 (driver)")


def test_no_gpu(tmp_path: Path) -> None:
    assert told(machine(tmp_path)) == {"GPU": ("absent", "no NVIDIA driver")}


@pytest.mark.parametrize(
    ("line", "version"),
    [(machines.R36.splitlines()[0], "36.4.3"), (machines.R39.splitlines()[0], "39.2.0"), ("", None), ("# R", None)],
)
def test_the_l4t_version(line: str, version: str | None) -> None:
    assert l4t_version(line) == version


def test_the_question_to_cuda_is_python_that_ends_quietly_without_a_driver() -> None:
    done = subprocess.run([sys.executable, "-c", ASK_CUDA], capture_output=True, text=True, check=False)
    assert done.returncode == 1  # no cuda-python, or no driver: this machine has no GPU, and the caller falls back
    assert done.stdout == ""
