"""Two processes give what one gives, and seal it once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load

from gpusq.artifacts import Artifact, Store
from gpusq.stages.stage import Stage, run_stage
from tests.chain import Chain

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ("--epochs", "1", "--batch-size", "16", "--calibration-images", "16", "--learning-rate", "1e-4")


def launched(*arguments: object) -> dict[str, Any]:
    """The JSON of a command run by two processes."""
    launch = ["-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1", "--cpu"]
    settings = ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "gpusq"]
    command = [sys.executable, *launch, *settings, *map(str, arguments), "--json", "--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def distance(one: Artifact, two: Artifact, name: str = "weights.safetensors") -> float:
    """Euclidean distance over all values of all tensors."""
    a, b = load(one.read(name)), load(two.read(name))
    assert a.keys() == b.keys()
    return float(sum(((a[k] - b[k]).astype("float64") ** 2).sum() for k in a) ** 0.5)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "parent"), [("prune", "intake"), ("qat", "prune")])
def test_two_processes_train_the_model_that_one_trains(chain: Chain, tmp_path: Path, stage: str, parent: str) -> None:
    from gpusq.recipe import with_values

    values = {"epochs": 1.0, "batch_size": 16, "calibration_images": 16, "learning_rate": 1e-4}
    alone: Stage = with_values(type(getattr(chain.recipe, stage))(), values, stage)
    one = run_stage(alone, chain.artifact(parent), chain.context(chain.copy(tmp_path / "one"))).artifact
    before = len(chain.copy(tmp_path / "two").artifacts())
    reference = chain.artifact(parent).digest
    made = launched(stage, reference, "--data", chain.images, "--store", tmp_path / "two", *OPTIONS)
    two = Store(tmp_path / "two")
    artifact = two.resolve(made["digest"])
    assert len(two.artifacts()) == before + 1
    assert not any(problems for problems in two.verify_all().values())
    assert artifact.key == one.key
    trained = distance(one, chain.artifact(parent))
    assert trained > 0.01
    assert distance(one, artifact) < 1e-3 * trained
    assert one.read_json("layers.json") == artifact.read_json("layers.json")
    assert one.read("masks.safetensors") == artifact.read("masks.safetensors")
    if stage == "qat":
        assert distance(one, artifact, "scales.safetensors") < 1e-3
