"""The pretrained ViT benchmark's own logic: arguments, plan, rows, page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import pretrained_vit_s14 as script
from gpusq.data.array_set import ArraySet

PLAN = script.Plan(steps=60, batch_size=16, calibration_images=128, parity_images=200)


def test_steps_become_the_same_steps_again() -> None:
    from gpusq.training import steps_in

    for images in (60_000, 1_437, 64):
        assert steps_in(PLAN.epochs(images), images, PLAN.batch_size) == PLAN.steps


def test_stages_use_no_labels_and_the_plan() -> None:
    for stage in (PLAN.prune("sparsegpt", 0.5), PLAN.qat(0.5)):
        assert stage.supervised is False
        assert (stage.batch_size, stage.calibration_images, stage.epochs) == (16, 128, 0.5)


def test_training_is_said_of_trained_forms_only() -> None:
    said = {form: script.training_of(form, PLAN) for form in ("dense", "2:4", "2:4 trained", "2:4 + INT8 trained")}
    assert list(said.values()) == ["-", "none (one-shot)", "60 steps of 16 in Prune", "60 steps of 16 in Prune and Qat"]


def test_standard_error_is_binomial() -> None:
    assert script.Scored("dense", "-", "PyTorch", 0.5, 100).standard_error == pytest.approx(0.05)


def test_first_images_are_the_first() -> None:
    pixels = np.arange(5, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    whole = ArraySet("few", "test", ("a", "b"), [f"i{n}" for n in range(5)], pixels, np.array([0, 1, 1, 0, 1]))
    part = script.first_images(whole, 3)
    assert (len(part), list(part.ids), part.label(2), int(part.image(2)[0, 0, 0])) == (3, ["i0", "i1", "i2"], 1, 2)
    assert part.fingerprint() != whole.fingerprint()


def test_command_repeats_the_run() -> None:
    given = script.arguments(["--model", "build/a", "--model", "build/b", "--steps", "7", "--seconds", "0.5"])
    again = script.arguments(script.command_of(given).split()[4:])
    assert vars(again) == vars(given)


@pytest.mark.parametrize("name", ["--steps", "--batch-size", "--test-images", "--threads"])
def test_counts_below_one_are_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        script.arguments(["--model", "x", name, "0"])
    assert f"{name} must be at least 1" in capsys.readouterr().err


def test_a_model_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        script.arguments([])
    assert "--model" in capsys.readouterr().err


def run(blocks: int) -> dict[str, Any]:
    figures = {"max_abs": 1.0, "relative": 0.05, "top1": 0.97, "n": 200}
    timing = {
        "p50_ms": 10.0,
        "p90_ms": 11.0,
        "p99_ms": 12.0,
        "n": 15,
        "warmup": 3,
        "mean_ms": 10.2,
        "throughput_per_s": 98.0,
    }
    return {
        "blocks": blocks,
        "of_blocks": 12,
        "parameters": 12_700_000,
        "head_train_images": 8000,
        "accuracy": [
            {"form": "2:4", "trained": "-", "ran_by": "PyTorch", "top1": 0.8, "n": 1000, "standard_error": 0.0126}
        ],
        "parity": [{"form": "2:4 + INT8", "onnxruntime": figures, "itself": figures}],
        "latency": [{"engine": "2:4", "runtime": "openvino", "batch": 1, **timing, "speedup": 1.5}],
        "load_average_before_latency": [0.1, 0.1, 0.1],
        "load_average_after_latency": [0.2, 0.2, 0.2],
    }


def test_page_says_which_blocks_and_what_is_not_claimed() -> None:
    given = script.arguments(["--model", str(Path("build/a"))])
    page = script.page(
        {
            "command": script.command_of(given),
            "date": "2026-01-01",
            "plan": {"seed": 0, "steps": 60, "batch_size": 16, "calibration_images": 128},
            "facts": script.FACTS,
            "host": {"cpu": "a CPU", "system": "Linux", "python": "3.11"},
            "threads": 2,
            "libraries": {"torch": "2"},
            "test_images": 1000,
            "runs": [run(7), run(12)],
        }
    )
    assert "## The first 7 of 12 blocks" in page
    assert "## All 12 blocks" in page
    assert "not an ImageNet classifier" in page
    assert "saliency" in page
    assert "metadata only" in page
    assert "| 2:4 | - | PyTorch | 80.0% | 1.3% | 1,000 |" in page
    assert "| 2:4 | openvino | 1 | 10.0 | 11.0 | 12.0 | 15 | 1.50x |" in page
