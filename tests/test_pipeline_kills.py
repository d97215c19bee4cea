"""Killed at any moment and started again, a run finishes with the results of an undisturbed one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KILLS = 40


@pytest.mark.slow
def test_killed_forty_times(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tests" / "kill_driver.py"), str(tmp_path), str(KILLS)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["killed"] == KILLS
    assert found["stores"] >= 1
    assert found["resumed"] >= 1, "no kill left a checkpoint to go on from"
    assert found["kinds"] == ["dense", "onnx", "onnx", "quantized", "sparse"]
