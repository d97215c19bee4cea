"""Boxes that training sees otherwise than annotated are named in the report, also of a run that prints nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gpusq.data import open_data
from gpusq.pictures import Pictured
from gpusq.pipeline import report_of
from tests.chain import Chain
from tests.cli.commands import gpusq
from tests.data.box_samples import coco, coco_part, write_images, write_json

ODD = [
    {"image_id": 0, "bbox": [-2, 3, 5, 5]},
    {"image_id": 0, "bbox": [1, 1, 0, 5]},
    {"image_id": 1, "bbox": [99, 99, 5, 5]},
    *({"image_id": 1, "bbox": [1, 1, 1, 1]} for _ in range(97)),
]
NOTE = (
    "annotations of test: of 100 boxes 1 reach over the edge of their image (cut there for training, as annotated in "
    "AP); 1 without extent (left out of training, kept in AP); 1 wholly outside their image (left out of training, "
    "kept in AP)"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A COCO folder whose test annotations hold one box of each odd kind."""
    coco_part(tmp_path / "odd" / "train")
    write_images(tmp_path / "odd" / "test", ["0.png", "1.png"], seed=9)
    write_json(tmp_path / "odd" / "test" / "_annotations.coco.json", coco(["0.png", "1.png"], ODD))
    return tmp_path / "odd"


def test_a_quiet_run_reports_them(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpusq.pipeline._chain", lambda recipe, context: [])  # the note needs no artifact
    made, store = tmp_path / "report.json", tmp_path / "store"
    command = ("compress", "-m", "new:detr-mini", "-d", f"coco:{folder}", "--store", store, "--report", made, "--quiet")
    result = gpusq(*command)
    assert (result.exit_code, result.stderr) == (0, "")
    assert NOTE in json.loads(made.read_text())["notes"]
    kept = next(path for path in (store / "runs").glob("*.json"))
    assert NOTE in json.loads(kept.read_text())["notes"]


def test_a_shift_of_scores_reaches_the_report_and_the_terminal(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shift = "at a score of 24 % the dense engine shows 105 boxes and the compressed engine 64"
    monkeypatch.setattr("gpusq.pipeline._chain", lambda recipe, context: [])
    monkeypatch.setattr("gpusq.pipeline._pictures", lambda steps, context: Pictured(cautions=(shift,)))
    made = tmp_path / "report.json"
    where = ("--store", tmp_path / "store", "--report", made, "--quiet")
    result = gpusq("compress", "-m", "new:detr-mini", "-d", f"coco:{folder}", *where)
    assert json.loads(made.read_text())["cautions"] == [shift]
    assert f"mind: {shift}" in " ".join(result.stdout.split())


def test_a_report_of_one_artifact_names_them_too(
    chain: Chain, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpusq.evidence.rows_of", lambda *_: [])  # the chain's model is no detector: nothing is scored
    context = chain.context(chain.copy(tmp_path / "store"))
    artifact = context.store.resolve(chain.artifact("export").digest)
    assert NOTE not in report_of(artifact, ("cpu",), context).notes
    odd = replace(context, data=open_data(f"coco:{folder}"))
    assert NOTE in report_of(artifact, ("cpu",), odd).notes
