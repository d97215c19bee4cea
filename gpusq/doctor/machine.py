"""The machine as the checks see it: files, programs, packages. A test hands them another one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

PROGRAM_SECONDS = 30.0
IMPORT_SECONDS = 120.0


def output_of(command: Sequence[str], seconds: float = PROGRAM_SECONDS) -> str | None:
    """Standard output of a program that ended with 0; None where it is missing, failed or took longer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout if done.returncode == 0 else None


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, None where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def import_error(module: str) -> str | None:
    """The reason why a module cannot be imported, "" where it can, None where there is no such module.

    Tried in another process: a library that ends the process, or logs, does neither here.
    """
    import importlib.util
    import sys

    if importlib.util.find_spec(module) is None:
        return None
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=IMPORT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"the import ended with {done.returncode}"


def package_folders() -> tuple[Path, ...]:
    """Folders that carry libnvinfer inside installed packages (`tensorrt-cu13-libs` and its kind)."""
    names = ("tensorrt_libs", "tensorrt_rtx_libs", "tensorrt_lean_libs")
    homes = {Path(str(found.locate_file(""))) for found in distributions()}
    return tuple(sorted(home / name for home in homes for name in names if (home / name).is_dir()))


@dataclass(frozen=True)
class Machine:
    """root: where "/" is. run: a program's output or None. installed: version of a distribution or None.

    imports: why a module does not import ("" where it does, None where it is not there). folders: where packages
    keep TensorRT's libraries. environment: variables. here: the working folder.
    """

    root: Path = Path("/")
    run: Callable[[Sequence[str]], str | None] = output_of
    installed: Callable[[str], str | None] = installed_version
    imports: Callable[[str], str | None] = import_error
    folders: Callable[[], tuple[Path, ...]] = package_folders
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    here: Path = field(default_factory=Path.cwd)

    def read(self, name: str) -> str | None:
        """Text of /name, without the zero bytes that device-tree files hold; None where it cannot be read."""
        try:
            return (self.root / name).read_bytes().replace(b"\0", b"\n").decode("utf-8", "replace")
        except OSError:
            return None

    def first_line(self, name: str) -> str | None:
        """The first line of /name, None where there is none."""
        text = self.read(name)
        return text.splitlines()[0].strip() if text and text.strip() else None
