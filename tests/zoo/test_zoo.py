"""The zoo: a family that fails, hangs or dies is one row with its reason, and what passed is told as it is."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gpusq.artifacts import Store
from gpusq.data import open_data
from gpusq.errors import ParityError
from gpusq.models.presets import preset_names
from gpusq.zoo import FAMILIES, STEPS, Family, FamilyResult, Limits, run, run_zoo, to_json, to_markdown
from gpusq.zoo.agreement import check_agreement, noisy_layers, shows
from gpusq.zoo.family import run_family
from gpusq.zoo.images import CLASSES, MOST, TEST, TRAIN, write_boxes

PARITY = {"max_abs": 1e-6, "relative": 2e-6, "top1": 0.75, "n": 12}
PASSED = FamilyResult(
    "ViT", "new:vit-test", list(STEPS), "", "classification", (3, 32, 32), 32554, 0.93, 0.94, "images", PARITY, PARITY,
    PARITY, PARITY, {"float32": {"top1": 1.0}, "float16": {"top1": 0.5}}, 13, 14, 2, 10.0,
)  # fmt: skip
STOPPED = FamilyResult("DETR", "new:detr-mini", ["intake", "prune"], "ParityError: a | b\nc")


def test_every_family_has_a_preset_and_a_name_of_its_own() -> None:
    known = set(preset_names())
    assert {family.model.removeprefix("new:").partition("?")[0] for family in FAMILIES} <= known
    assert len({family.name for family in FAMILIES}) == len({family.model for family in FAMILIES}) == len(FAMILIES)


def test_the_table_counts_and_gives_reasons() -> None:
    text = to_markdown([PASSED, STOPPED])
    assert text.startswith("1 of 2 families pass every step; of 0 the parity of every file is shown.")
    passed = "| ViT | `new:vit-test` | 32,554 | all | 93.0% | 94.0% | 2e-06, 75.0% | 75.0% "
    assert passed + "| 75.0% (100.0%) | not shown (50.0%) | 13 of 14 | 10 |" in text
    assert "| DETR | `new:detr-mini` | - | stopped at quantize | - | - | - | - | - | - | - | 0 |" in text
    assert "- DETR: ParityError: a / b c" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_json_round_trip() -> None:
    data = json.loads(json.dumps(to_json([PASSED, STOPPED], {"host": "x"})))
    assert (data["families"], data["passed"], data["conditions"]) == (2, 1, {"host": "x"})
    assert [FamilyResult.from_json(row) for row in data["results"]] == [PASSED, STOPPED]


def child(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let `code` stand for the family's process; it finds the result's path in sys.argv[1]."""

    def command(family: Family, result: Path, limits: Limits) -> list[str]:
        return [sys.executable, "-c", f"import os, sys, time, pathlib; {code}", str(result)]

    monkeypatch.setattr(run, "child_command", command)


def reached(step: int) -> str:
    row = json.dumps(FamilyResult("A", "new:a", list(STEPS[:step])).to_json())
    return f"pathlib.Path(sys.argv[1]).write_text({row!r})"


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (f"{reached(2)}; os.abort()", "quantize: the process ended with status -6: no message"),
        (f"{reached(3)}; sys.exit('Killed: out of memory')", "export: the process ended with status 1: Killed"),
        (f"{reached(4)}; time.sleep(60)", "build: not done within 1 s"),
        ("sys.exit(3)", "intake: the process ended with status 3: no message"),
    ],
    ids=["abort", "message", "hang", "nothing"],
)
def test_an_early_end_is_one_row(monkeypatch: pytest.MonkeyPatch, code: str, why: str) -> None:
    child(monkeypatch, code)
    told: list[FamilyResult] = []
    results = run_zoo([Family("A", "new:a")], Limits(1 if "sleep" in code else 30), told.append)
    assert results == told
    assert not results[0].passed
    assert results[0].why.startswith(why)


def test_the_memory_limit_ends_a_family(tmp_path: Path) -> None:
    result = run.run_in_process(Family("A", "new:vit-test"), Limits(120, 0.25))
    assert not result.passed
    assert result.why


def test_a_refusal_is_the_reason(tmp_path: Path) -> None:
    result = run_family(Family("A", "new:no-such-model"), tmp_path, lambda result: None)
    assert result.done == []
    assert result.why.startswith("UnsupportedModelError")


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="needs the rtx extra: pip install 'gpusq[rtx]'"
)
def test_a_family_passes_every_step() -> None:
    (result,) = run_zoo([FAMILIES[0]], Limits(600))
    assert result.passed, result.why
    assert result.sparse is not None
    assert result.sparse > 0.9
    assert result.int8_gemms == result.int8_layers == 13


@pytest.mark.parametrize(
    ("found", "own", "good"),
    [(0.9, 1.0, True), (0.89, 1.0, False), (0.85, 0.94, True), (0.83, 0.94, False), (0.0, 0.89, True)],
)
def test_a_file_is_held_to_what_the_model_does_by_itself(found: float, own: float, good: bool) -> None:
    if good:
        check_agreement({"top1": found}, {"top1": own}, "a file")
    else:
        with pytest.raises(ParityError, match=r"a file must agree .* with itself"):
            check_agreement({"top1": found}, {"top1": own}, "a file")


@pytest.mark.parametrize(
    ("found", "own", "good"), [(0.85, 1.0, True), (0.84, 1.0, False), (0.81, 0.9, True), (0.79, 0.9, False)]
)
def test_boxes_that_are_found_must_lie_where_pytorch_finds_them(found: float, own: float, good: bool) -> None:
    parity, itself = {"top1": 1.0, "mean_iou": found}, {"top1": 1.0, "mean_iou": own}
    if good:
        check_agreement(parity, itself, "a file")
    else:
        with pytest.raises(ParityError, match=r"boxes that overlap .* by 8"):
            check_agreement(parity, itself, "a file")


def test_a_model_that_does_not_agree_with_itself_shows_nothing() -> None:
    assert shows({"top1": 0.9})
    assert not shows({"top1": 0.89})
    assert not shows({"top1": 1.0, "mean_iou": 0.8})
    lively = {"float32": {"top1": 1.0}, "float16": {"top1": 1.0}}
    assert "of 1 the parity of every file is shown" in to_markdown([replace(PASSED, itself=lively)])


def test_drawn_boxes_are_a_coco_folder_that_a_detector_can_be_trained_on(tmp_path: Path) -> None:
    data = open_data(write_boxes(tmp_path))
    assert (len(data.train), len(data.test)) == (TRAIN, TEST)
    assert tuple(data.train.classes) == CLASSES
    counts = [len(data.train.boxes(index)) for index in range(TRAIN)]
    assert (min(counts), max(counts)) == (1, MOST)
    pixels = np.asarray(data.train.image(0))
    for x0, y0, x1, y1 in data.train.boxes(0).xyxy().round().astype(int):
        assert pixels[y0:y1, x0:x1].min() >= 140


def test_a_trained_family_is_told_as_such(tmp_path: Path) -> None:
    told: list[FamilyResult] = []

    class EnoughError(Exception):
        pass

    def note(result: FamilyResult) -> None:
        told.append(result)
        raise EnoughError

    with pytest.raises(EnoughError):
        run_family(Family("A", "new:rt-detr-mini", lively=True, passes=0.1), tmp_path, note)
    (result,) = told
    assert (result.done, result.task, result.passes) == (["intake"], "detection", 0.1)
    assert [a.manifest.stage for a in Store(tmp_path / "store").artifacts()] == ["train"]
    assert "`new:rt-detr-mini`, 0.1 passes" in to_markdown(told)


def test_noise_is_as_large_as_asked_and_gone_afterwards() -> None:
    layer = torch.nn.Linear(8, 8)
    x = torch.rand(4, 8)
    with torch.no_grad():
        before = layer(x)
        with noisy_layers(torch.nn.Sequential(layer), 2.0**-4):
            shaken = layer(x)
        after = layer(x)
    change = (shaken / before - 1).abs()
    assert 0.03 < float(change.max()) <= 2.0**-4 + 1e-6
    assert torch.equal(before, after)


def test_noise_of_a_sum_grows_with_the_root_of_its_products() -> None:
    layer = torch.nn.Linear(64, 8, bias=False)
    x = torch.rand(256, 64)
    with torch.no_grad():
        before = layer(x)
        with noisy_layers(torch.nn.Sequential(layer), 2.0**-7, sums=True):
            change = (layer(x) / before - 1).abs()
    assert 0.9 * 2.0**-4 < float(change.max()) <= 2.0**-4 + 1e-5
