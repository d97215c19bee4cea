"""Training in processes of its own: killed at random moments, and spread over two."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

DRIVER = Path(__file__).with_name("train_driver.py")
ROOT = DRIVER.parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
STEPS = 30


def digest(file: Path) -> str:
    """One sha256 of every tensor's name and bytes."""
    found = hashlib.sha256()
    for name, tensor in sorted(load_file(file).items()):
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def run(*arguments: str, launcher: tuple[str, ...] = ()) -> str:
    command = [sys.executable, *launcher, str(DRIVER), *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def killed(arguments: list[str], lines: int, pause: float) -> list[str]:
    """Start the driver, SIGKILL it `pause` seconds after its step line number `lines`; its lines."""
    command = [sys.executable, str(DRIVER), *arguments]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = []
        for line in process.stdout:
            found.append(line.strip())
            if len(found) == lines:
                break
        time.sleep(pause)
        process.kill()
        process.wait()
        assert process.returncode == -9
    return found


@pytest.mark.slow
def test_killed_again_and_again_the_tensors_are_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    """Checkpoints after every step, so that many kills fall into the writing of one."""
    whole, resumed = tmp_path / "whole.safetensors", tmp_path / "resumed.safetensors"
    run(str(whole), "--steps", str(STEPS))
    arguments = [str(resumed), "--checkpoints", str(tmp_path / "kept"), "--every", "1", "--steps", str(STEPS)]
    moments = random.Random(7)  # noqa: S311  (moments, not secrets)
    first_steps = []
    for _ in range(4):
        lines = killed(arguments, moments.randint(2, 5), moments.uniform(0.0, 0.05))
        first_steps.append(int(lines[0].split()[1]))
        assert not resumed.exists()
    assert first_steps == sorted(first_steps)
    assert first_steps[0] == 0 < first_steps[-1]
    assert not run(*arguments).startswith("step 0\n")
    assert digest(resumed) == digest(whole)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    run(str(one), "--plain")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    lines = run(str(two), "--plain", launcher=launcher)
    assert lines.count("step") == 2 * 12  # both processes took every step
    mine, theirs = load_file(one), load_file(two)
    assert mine.keys() == theirs.keys()
    gap = torch.cat([(mine[n] - theirs[n]).flatten() for n in mine]).norm()
    size = torch.cat([mine[n].flatten() for n in mine]).norm()
    assert float(gap / size) < 1e-5
    assert all(torch.equal(mine[n] == 0, theirs[n] == 0) for n in mine if n.endswith("proj.weight"))


@pytest.mark.slow
def test_an_uneven_batch_is_refused_in_every_process(tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3")
    command = [sys.executable, *launcher, str(DRIVER), str(tmp_path / "out.safetensors"), "--plain"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)
    assert done.returncode != 0
    assert "split evenly over 3 processes" in done.stderr
    assert not (tmp_path / "out.safetensors").exists()
