"""The installation of the device side: refused options, and for real in a clean Debian root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CANNOT = 3
"""Exit status of test_install_in_clean_root.sh where the machine cannot do it (not root, no package index)."""

MARKER = ".made-by-gpusq-install_device"
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


def recording_python(folder: Path) -> tuple[Path, Path]:
    """A Python that passes the script's test of it, notes what it is asked and makes no environment; and its notes."""
    path, notes = folder / "python", folder / "asked"
    path.write_text(f'#!/bin/sh\necho "$@" >>"{notes}"\ncase $1 in -c | -V) exit 0 ;; *) exit 9 ;; esac\n')
    path.chmod(0o755)
    return path, notes


def install_into(prefix: Path | str, folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """The script with a recording Python; what came of it, and what that Python was asked."""
    folder.mkdir(exist_ok=True)
    python, notes = recording_python(folder)
    script = ["bash", str(ROOT / "scripts/install_device.sh"), "--no-apt", "--bin", str(folder / "bin")]
    done = subprocess.run(
        [*script, "--prefix", str(prefix), *arguments],
        capture_output=True, text=True, check=False, cwd=folder, env={**os.environ, "PYTHON": str(python)},
    )  # fmt: skip
    return done, notes.read_text() if notes.exists() else ""


def a_clone(folder: Path) -> Path:
    """A folder of sources with this script, as a clone has them."""
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts/install_device.sh", folder / "scripts")
    (folder / "pyproject.toml").write_text("[project]\n")
    return folder


@pytest.mark.parametrize("make", [a_clone, lambda folder: (folder.mkdir(), (folder / ".hidden").touch())])
def test_a_folder_with_other_files_is_refused_and_stays_as_it_is(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    make(tmp_path / "gpusq")
    before = sorted(tmp_path.rglob("*"))
    done, asked = install_into(tmp_path / "gpusq", tmp_path / "elsewhere")
    assert done.returncode == 1
    assert "did not put there" in done.stderr
    assert (done.stdout, asked) == ("", "")  # nothing was looked for, made or fetched
    assert [p for p in sorted(tmp_path.rglob("*")) if "elsewhere" not in p.parts] == before


def test_an_environment_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv/pyvenv.cfg").write_text("home = /usr/bin\n")
    done, asked = install_into(tmp_path / "venv", tmp_path / "elsewhere")
    assert (done.returncode, asked) == (1, "")
    assert (tmp_path / "venv/pyvenv.cfg").is_file()


@pytest.mark.parametrize("prefix", [".", "..", "/", "link", "clone/../clone/"])
def test_the_sources_and_the_folders_above_them_are_refused(tmp_path: Path, prefix: str) -> None:
    clone = a_clone(tmp_path / "clone")
    (clone / MARKER).touch()  # not even so
    (clone / "link").symlink_to(clone)
    place = {"clone/../clone/": f"{clone}/../clone/"}.get(prefix, prefix)
    python, notes = recording_python(tmp_path)
    done = subprocess.run(
        ["bash", "scripts/install_device.sh", "--no-apt", "--bin", "", "--prefix", place],
        capture_output=True, text=True, check=False, cwd=clone, env={**os.environ, "PYTHON": str(python)},
    )  # fmt: skip
    assert done.returncode == 1
    assert "holds the sources" in done.stderr
    assert not notes.exists()
    assert (clone / "pyproject.toml").is_file()


def test_a_given_source_is_kept_as_well(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    wheel = tmp_path / "place/gpusq-1-py3-none-any.whl"
    wheel.touch()
    (tmp_path / "place" / MARKER).touch()
    done, asked = install_into(tmp_path / "place", tmp_path / "elsewhere", "--source", str(wheel))
    assert (done.returncode, asked) == (1, "")
    assert wheel.is_file()


def test_a_file_as_prefix_and_an_empty_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "is no folder" in install_into(tmp_path / "file", tmp_path / "elsewhere")[0].stderr
    assert "needs a value" in install_into("", tmp_path / "elsewhere")[0].stderr


def test_something_else_in_the_place_of_the_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere/bin/gpusq").mkdir(parents=True)
    done, asked = install_into(tmp_path / "new", tmp_path / "elsewhere")
    assert (done.returncode, asked) == (1, "")
    assert "--bin" in done.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("state", ["new", "empty", "of an earlier run"])
def test_a_new_an_empty_and_its_own_folder_are_taken_and_marked(tmp_path: Path, state: str) -> None:
    prefix = tmp_path / "deep/gpusq"
    if state != "new":
        prefix.mkdir(parents=True)
    if state == "of an earlier run":
        (prefix / MARKER).touch()
        (prefix / "lib").mkdir()
        (prefix / "lib/old.py").touch()
    done, asked = install_into(prefix, tmp_path / "elsewhere")
    assert done.returncode == 9  # of the Python that makes no environment
    assert f"-m venv --system-site-packages {prefix}" in asked
    assert [p.name for p in prefix.iterdir()] == [MARKER]  # so that a run that was broken off can be repeated
    assert install_into(prefix, tmp_path / "elsewhere")[0].returncode == 9


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
