"""The installation of the device side: refused options, and for real in a clean Debian root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CANNOT = 3
"""Exit status of test_install_in_clean_root.sh where the machine cannot do it (not root, no package index)."""

WHEELS_FOR = (3, 11)
"""The clean root's Python, and so what its wheels are for."""
TENSORRT_FILES = (
    "libnvinfer.so.10",
    "libnvinfer_plugin.so.10",
    "libnvonnxparser.so.10",
    "libnvinfer_builder_resource_ptx.so.10.16.1",
    "libnvinfer_builder_resource_sm80.so.10.16.1",
    "libnvinfer_builder_resource_sm90.so.10.16.1",
    "libnvinfer_builder_resource_win_sm80.so.10.16.1",
)


def install(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "scripts/install_device.sh"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "needle"),
    [
        (("--frobnicate",), "unknown option"),
        (("--prefix",), "needs a value"),
        (("--tensorrt", "10.*"), "exact version"),
        (("--tensorrt", "newest"), "exact version"),
        (("--tensorrt", "system", "--keep-sm", "80"), "--keep-sm"),
        (("--user", "gpusq"), "NAME:UID"),
        (("--source", "/no/such/place"), "not there"),
        (("--cuda", "11"), "--cuda is 12 or 13"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_done(arguments: tuple[str, ...], needle: str) -> None:
    done = install(*arguments)
    assert done.returncode == 1
    assert needle in done.stderr
    assert done.stdout == ""


@pytest.mark.slow
def test_in_a_clean_root_it_ends_with_a_working_doctor(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/test_install_in_clean_root.sh")],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=590,
    )
    if done.returncode == CANNOT and not os.environ.get("CI"):
        pytest.skip(f"this machine cannot make a clean root: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "install: installed" in done.stdout
    assert "clean root: passed: doctor works" in done.stdout
    if sys.version_info[:2] == WHEELS_FOR:
        check_builder_files_are_sorted_out(tmp_path)


def check_builder_files_are_sorted_out(folder: Path) -> None:
    """--tensorrt VERSION --keep-sm 80, with a wheel made by hand in place of TensorRT's: names as in its real one."""
    wheels = folder / "wheels"
    shutil.copytree(ROOT / "build/clean-root/wheels", wheels)
    stand_in(wheels / "tensorrt_cu13-10.16.1.11-py3-none-any.whl")
    (wheel,) = (ROOT / "build/clean-root/wheel").glob("*.whl")
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/install_device.sh"), "--source", str(wheel), "--wheels", str(wheels), "--no-apt",
         "--prefix", str(folder / "venv"), "--bin", str(folder / "bin"), "--tensorrt", "10.16.1.11", "--keep-sm", "80"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHON": sys.executable},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (libraries,) = (folder / "venv/lib").glob("python3.*/site-packages/tensorrt_libs")
    assert {p.name for p in libraries.iterdir()} == {n for n in TENSORRT_FILES if "sm90" not in n and "win" not in n}
    assert (folder / "bin/gpusq").resolve() == folder / "venv/bin/gpusq"


def stand_in(wheel: Path) -> None:
    """A wheel of TensorRT's name with empty libraries."""
    info = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"
    texts = {f"tensorrt_libs/{name}": "" for name in TENSORRT_FILES}
    texts[f"{info}/METADATA"] = "Metadata-Version: 2.1\nName: tensorrt-cu13\nVersion: 10.16.1.11\n"
    texts[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    texts[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*texts, f"{info}/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in texts.items():
            archive.writestr(name, text)
