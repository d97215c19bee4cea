"""`compress --keep auto --max-drop X`: what was tried and kept is told, and what was kept is so in what ships."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from gpusq.artifacts import Artifact, Store
from gpusq.cli.sensitivity_command import _show
from gpusq.graph.weights import StoredWeight, stored_weights
from gpusq.pipeline import sensitivity_cautions
from tests.chain import quick_timings
from tests.cli.commands import gpusq, gpusq_json

MAX_DROP = 0.5
JUDGE = {"images": 400, "calibration_images": 32, "score": "magnitude", "seed": 2}
FIRST, LAST = "model.vit.layers.0", "model.vit.layers.1"
WIDE, FED = "vit.layers.0.layernorm_after", "vit.layers.0.mlp.fc1"
SETTINGS = (
    "train.epochs=6",
    "train.batch_size=32",
    "train.learning_rate=3e-3",
    f"train.freeze=['*{WIDE}.*', '*{FED}.*']",
    *(f"sensitivity.{name}={value}" for name, value in JUDGE.items()),
    "prune.epochs=0.5",
    "prune.calibration_images=32",
    "qat.epochs=0.5",
    "qat.calibration_images=32",
    "build.runtime=onnxruntime",
)
COMMAND = ("compress", "--data", "digits", "--target", "cpu", "--model")
KEEP = ("--keep", "auto", "--max-drop", MAX_DROP)


@dataclass(frozen=True)
class Kept:
    """What one `compress --keep auto` printed, wrote and left in the store."""

    store: Store
    printed: dict[str, Any]
    report: dict[str, Any]
    page: str

    def artifact(self, stage: str, role: str = "model") -> Artifact:
        """The artifact of a stage that the command named."""
        records = self.printed["artifacts"]
        return self.store.resolve(next(r["digest"] for r in records if (r["stage"], r["role"]) == (stage, role)))

    @property
    def found(self) -> dict[str, Any]:
        """sensitivity.json."""
        return self.artifact("sensitivity").read_json("sensitivity.json")  # type: ignore[no-any-return]

    def weights(self, role: str = "model") -> dict[str, StoredWeight]:
        """Layer -> its weight in the file that the CPU engine runs."""
        model = ir.load(self.artifact("build", role).path / "model.onnx")
        return {weight.layer: weight for weight in stored_weights(model)}


def wide_model(path: Path) -> Path:
    """A fresh ViT of 10 digits whose first block has two channels 300 times as large as the others, as some pretrained
    ones have; what reads them is as much smaller. With one scale for all channels, INT8 loses the others."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    names = {"id2label": {i: str(i) for i in range(10)}, "label2id": {str(i): i for i in range(10)}}
    model = ViTForImageClassification(ViTConfig(image_size=16, patch_size=4, **sizes, **names))
    with torch.no_grad():
        model.get_submodule(WIDE).weight[:2] *= 300
        torch.nn.init.normal_(model.get_submodule(FED).weight, std=0.15)
        model.get_submodule(FED).weight[:, :2] /= 300
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module", params=[pytest.param(SETTINGS, id="digits", marks=pytest.mark.slow)])
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """A small classifier, trained and compressed by one command. What rests on it is slow, the other tests are not."""
    root = tmp_path_factory.mktemp("keep")
    model = f"hf:{wide_model(root / 'model')}"
    files = ("--report", root / "report.json", "--html", root / "report.html")
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    with quick_timings():
        printed = gpusq_json(*COMMAND, model, *settings, *KEEP, *files, "--store", root / "store", "--quiet")
    report = json.loads((root / "report.json").read_text(encoding="utf-8"))
    return Kept(Store(root / "store"), printed, report, (root / "report.html").read_text(encoding="utf-8"))


def layers_of(found: dict[str, Any], *forms: str) -> set[str]:
    """Layers of the blocks that the trail leaves out of these forms."""
    return {layer for step in found["trail"] if step["kept"] in forms for layer in found["layers"][step["block"]]}


def two_of_four(matrix: np.ndarray) -> bool:
    """Whether no group of four along the reduction holds more than two weights."""
    return bool((np.count_nonzero(matrix.reshape(len(matrix), -1, 4), axis=-1) <= 2).all())


def test_every_block_is_tried_in_every_form_and_the_trail_leads_under_the_limit(kept: Kept) -> None:
    found = kept.found
    assert (found["metric"], found["max_drop"], found["images"]) == ("top1", MAX_DROP, JUDGE["images"])
    assert found["dense"] > 0.4, "a model that has learnt nothing has nothing to lose"
    assert set(found["blocks"]) == {FIRST, LAST, "outside the blocks"}
    for losses in found["blocks"].values():
        assert set(losses) == {"sparse", "int8", "both"}
        assert all(loss["error"] > 0 for loss in losses.values())
    trail = found["trail"]
    costs = [found["blocks"][step["block"]][step["kept"]]["points"] for step in trail]
    assert costs == sorted(costs, reverse=True)
    assert min(costs) > 0
    lost = [found["whole"]["points"], *(step["loss"]["points"] for step in trail)]
    assert all(points > MAX_DROP for points in lost[:-1])
    assert found["reached"] == (lost[-1] <= MAX_DROP)
    assert lost[-1] < lost[0] / 4


def test_the_choice_is_that_of_the_trail_and_the_first_block_is_in_it(kept: Kept) -> None:
    """Measured: 40 points lost; INT8 of the first block alone costs 41, its 2:4 28, and nothing else more than 2."""
    found = kept.found
    dense, floats = set(found["keep_dense"]), set(found["keep_float"])
    assert dense == layers_of(found, "sparse", "both") & set(found["prunable"])
    assert floats == layers_of(found, "int8", "both")
    assert (found["trail"][0]["block"], found["trail"][0]["kept"]) == (FIRST, "int8")
    assert set(found["layers"][FIRST]) <= dense & floats
    assert set(found["prunable"]) - dense, "what is left is 2:4"
    assert set().union(*found["layers"].values()) - floats, "and INT8"


def test_what_was_kept_is_dense_and_float_in_the_file_that_runs_and_all_else_is_not(kept: Kept) -> None:
    found, weights, twin = kept.found, kept.weights(), kept.weights("dense twin")
    dense, floats = set(found["keep_dense"]), set(found["keep_float"])
    compressed = set().union(*found["layers"].values())
    assert compressed < set(weights)
    for name in compressed:
        assert weights[name].int8 == (name not in floats), name
        assert two_of_four(weights[name].matrix) == (name in found["prunable"] and name not in dense), name
        assert not twin[name].int8, name
        assert not two_of_four(twin[name].matrix), name
    states = {x["name"]: x for x in kept.artifact("build").read_json("layers.json")}
    for name in dense:
        assert (states[name]["sparse"], states[name]["why_dense"]) == (False, "kept dense by request (keep_dense)")
    for name in floats:
        assert states[name]["int8"] is False
        assert states[name]["why_float"] == "kept in floating point by request (keep_float)"


def test_report_and_page_tell_the_trail_and_what_it_cost(kept: Kept) -> None:
    found, notes = kept.found, kept.report["notes"]
    told = [note for note in notes if note.startswith("sensitivity")]
    assert len(told) == 1 + len(found["trail"]) + (not found["reached"])
    assert f"all blocks sparse and INT8 lose {found['whole']['points']:.2f} points" in told[0]
    assert f"{found['images']} images of digits train" in told[0]
    for step, note in zip(found["trail"], told[1:], strict=False):
        what = {"sparse": "dense", "int8": "in FP16"}[step["kept"]]
        assert f"with {step['block']} {what} too, the rest loses {step['loss']['points']:.2f} points" in note
    page = html.unescape(kept.page)
    assert all(note in page for note in told)
    assert kept.artifact("sensitivity").digest in {entry["digest"] for entry in kept.report["lineage"]}
    assert {verdict["criteria"]["max_drop"] for verdict in kept.report["verdicts"]} == {MAX_DROP}
    assert kept.printed["verdict"] == kept.report["verdicts"]


SPOILED = {"resolution": 6.67, "dense": 0.0, "metric": "AP"}


def test_what_a_choice_cannot_tell_is_printed_beside_it(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    record = {"kind": "sensitivity", "digest": "0" * 64, "path": "here"}
    _show(record, {**kept.found, **SPOILED}, json=False)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("mind: ")]
    assert len(told) == 2
    assert "at most 6.67 points" in told[0]
    assert "AP is 0.00 %" in told[1]
    _show(record, {**kept.found, **SPOILED}, json=True)
    assert [f"mind: {text}" for text in json.loads(capsys.readouterr().out)["cautions"]] == told


def test_what_a_choice_cannot_tell_stands_beside_the_verdict(kept: Kept) -> None:
    def step(**changes: Any) -> Any:
        artifact = SimpleNamespace(kind="sensitivity", read_json=lambda name: {**kept.found, **changes})
        return SimpleNamespace(done=SimpleNamespace(artifact=artifact))

    assert len(sensitivity_cautions([step(**SPOILED)])) == 2
    assert sensitivity_cautions([step(resolution=0.0, dense=0.9)]) == []


def test_sensitivity_alone_gives_the_same_artifact_and_prints_the_same_trail(kept: Kept) -> None:
    options = [part for name, value in JUDGE.items() for part in (f"--{name.replace('_', '-')}", value)]
    dense = kept.artifact("train").digest[:12]
    command = ("sensitivity", dense, "--data", "digits", "--max-drop", MAX_DROP, *options, "--store", kept.store.root)
    found = gpusq_json(*command)
    assert (found["digest"], found["reused"]) == (kept.artifact("sensitivity").digest, True)
    assert found["sensitivity"] == kept.found
    words = gpusq(*command).stdout.replace("\n", " ")
    for step in kept.found["trail"]:
        assert step["block"] in words
    assert f"keep_dense: {', '.join(kept.found['keep_dense'])}" in words
    assert f"keep_float: {', '.join(kept.found['keep_float'])}" in words


@pytest.mark.parametrize("drop", ["-0.5", "nan", "inf"])
def test_refuses_a_max_drop_that_is_no_number_of_points(drop: str, tmp_path: Path) -> None:
    result = gpusq(*COMMAND, "new:vit-test", "--keep", "auto", "--max-drop", drop, "--store", tmp_path / "store")
    assert result.exit_code == 2
    assert "max-drop" in result.stderr.replace("_", "-")
    assert result.stdout == ""
    assert not list(tmp_path.rglob("*.safetensors")), "refused before the work"
    command = ("sensitivity", "new:vit-test", "--data", "digits", "--max-drop", drop, "--store", tmp_path / "store")
    result = gpusq(*command, "--json")
    error = json.loads(result.stdout)["error"]
    assert (error["type"], error["exit_code"], result.exit_code) == ("UsageError", 2, 2)
    assert error["what"] == "sensitivity: max_drop must be finite and at least 0"
    assert error["got"] == str(float(drop))


def test_the_verdicts_max_drop_is_refused_before_the_work_too(tmp_path: Path) -> None:
    result = gpusq(*COMMAND, "new:vit-test", "--max-drop", "inf", "--store", tmp_path / "store", "--json")
    error = json.loads(result.stdout)["error"]
    assert (error["type"], error["got"], error["exit_code"], result.exit_code) == ("RecipeError", "inf", 2, 2)
    assert error["what"].startswith("max_drop must be finite")
    assert not list(tmp_path.rglob("*.safetensors"))
