"""The speed benchmark's own logic: measured children, import traces, limits, the page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import post_training_speed as script

TRACE = """import time: self [us] | cumulative | imported package
import time:       120 |        120 |   typer.main
import time:        30 |        150 | {}
"""


@pytest.mark.parametrize(
    ("module", "found"), [("torch", True), ("torch.nn", True), ("torchless", False), ("numpy", False)]
)
def test_trace_names_a_package_or_its_modules_only(module: str, found: bool) -> None:
    assert script.imports(TRACE.format(module), "torch") is found


def test_child_is_measured() -> None:
    program = "import time; x = b'1' * 200_000_000; time.sleep(0.3); print(len(x))"
    done = script.run_measured([sys.executable, "-c", program], script.environment_of(1))
    assert done.output == "200000000\n"
    assert done.seconds >= 0.3
    assert done.cpu_seconds > 0
    assert 0.18 < done.largest_gb < 1
    assert 0.18 < done.together_gb < 1


def test_failing_child_ends_the_run_with_its_error() -> None:
    with pytest.raises(SystemExit, match="the reason"):
        script.run_measured([sys.executable, "-c", "raise SystemExit('the reason')"], script.environment_of(1))


def test_threads_of_a_child_are_set() -> None:
    found = script.environment_of(2)
    assert (found["OMP_NUM_THREADS"], found["OMP_WAIT_POLICY"]) == ("2", "PASSIVE")


def content(seconds: float = 10.0, gigabytes: float = 1.0, torch: bool = False) -> dict[str, Any]:
    stage = {"role": "model", "stage": "build", "target": "cpu", "seconds": 2.5}
    run = {
        "targets": ["cpu", "a100"],
        "seconds": 12.0,
        "cpu_seconds": 15.0,
        "seconds_in_stages": 8.0,
        "model_stages_seconds": seconds,
        "stages": [stage],
    }
    run |= {"largest_process_gb": gigabytes, "processes_together_gb": gigabytes}
    return {
        "command": "python x.py",
        "date": "2026-01-01",
        "how": "how",
        "compress": [run],
        "masks": {"linears": 73, "weights": 86_000_000, "first_seconds": 0.4, "median_seconds": 0.3, "n": 3},
        "help": {"median_seconds": 0.2, "n": 3, "imports_torch": torch},
        "host": {"cpu": "a CPU", "cores": 2},
        "load_before": [0, 0, 0],
        "load_after": [0, 0, 0],
    }


def test_limits_hold_or_are_named() -> None:
    assert script.over_limits(content()) == []
    assert script.over_limits(content(seconds=91.0)) == ["stages of the model for cpu+a100, seconds: 91.0 > 90.0"]
    assert script.over_limits(content(gigabytes=3.1)) == ["compress for cpu+a100, GB: 3.1 > 3.0"]
    assert script.over_limits(content(torch=True)) == ["gpusq --help imports torch"]


def test_page_holds_the_figures() -> None:
    page = script.page(content())
    assert "| cpu, a100 | 10.0 | 12.0 | 15.0 | 8.0 | 1.0 | 1.0 |" in page
    assert "| model | build | cpu | 2.5 |" in page
    assert "torch not imported" in page


def test_images_are_written_as_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    from gpusq import data
    from gpusq.data.array_set import ArraySet

    def images(split: str) -> ArraySet:
        names, labels = [f"{split}{i}" for i in range(3)], np.array([0, 1, 0])
        return ArraySet("few", split, ("T-shirt/top", "Ankle boot"), names, np.zeros((3, 4, 4), np.uint8), labels)

    monkeypatch.setattr(script, "IMAGES", 3)
    monkeypatch.setattr(data, "open_data", lambda spec: data.DataSpec("few", images("train"), images("test")))
    script.write_images(None, tmp_path)
    monkeypatch.undo()
    found = data.open_data(str(tmp_path))
    assert (len(found.train), len(found.test)) == (3, 3)
    assert set(found.train.classes) == {"t-shirt-top", "ankle-boot"}
    assert found.train.image(0).shape == (script.IMAGE_PX, script.IMAGE_PX, 3)
