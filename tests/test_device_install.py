"""The device side alone: a fresh environment without torch, ONNX or a GPU finishes real bundles into sealed engines."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from tests.chain import Chain

ROOT = Path(__file__).resolve().parent.parent


def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("device_install", ROOT / "benchmarks" / "device_install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_fresh_environment_finishes_what_compress_left(chain: Chain, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [str(ROOT / "scripts" / "test_device_install.sh"), str(chain.root), str(figures)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(figures.read_text())
    engines = {engine["target"]: engine for engine in found["engines"]}
    assert engines["a100-40gb"]["capabilities"] == ["8.0"]
    assert engines["a100-40gb"]["stand_in"] == ""
    assert engines["agx-orin-64gb"]["capabilities"] == ["8.6"]
    assert "not an engine of agx-orin-64gb" in engines["agx-orin-64gb"]["stand_in"]
    for engine in engines.values():
        assert engine["status"].startswith("not run: ")
        assert engine["plan_bytes"] > 100_000
    assert found["megabytes"]["gpusq"] < 10
    assert found["megabytes"]["all"] < 1000  # torch alone would be more
    page = benchmark().page(found, "2026-01-01")
    assert f"| installed, without pip itself | {found['megabytes']['all']} MB |" in page


def test_the_committed_page_has_every_figure() -> None:
    text = (ROOT / "benchmarks" / "results" / "device_install.md").read_text()
    for part in ("installed, without pip itself", "`import gpusq`", "`gpusq --help`", "a100-40gb", "agx-orin-64gb"):
        assert part in text
    assert "stand-in for compute capability 8.6" in text
    assert "not run: " in text
