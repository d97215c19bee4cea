"""Labels of other classes than the model's are refused before any work, wherever labels teach or judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gpusq.artifacts import Artifact, Store
from gpusq.data import DataSpec, open_data
from gpusq.errors import ClassMismatchError
from gpusq.models import load_model
from gpusq.scoring import accuracy_of
from gpusq.stages import Intake, Prune, Qat, Sensitivity, Train
from gpusq.stages.stage import Context, Stage, run_stage
from tests.models import test_gapped_head as samples
from tests.models.model_samples import write_model
from tests.models.test_gapped_head import cells, gapped_directory

SOURCE = (
    samples.SOURCE.replace('["N/A", "dog", "N/A", "cat", "LABEL_4"]', '["dog", "cat"]')
    .replace("nn.Linear(4, 5)", "nn.Linear(4, 2)")
    .replace(
        "self.head.weight[1, 0] = self.head.weight[3, 1] = 16", "self.head.weight[0, 0] = self.head.weight[1, 1] = 16"
    )
)
IDS = {"good": {"dog": 1, "cat": 3}, "swapped": {"cat": 1, "dog": 3}}


@pytest.fixture
def data_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], DataSpec]:
    """Red dogs and green cats, their category ids in the order of the head or in the other one."""

    def make(kind: str) -> DataSpec:
        ids = IDS[kind]
        monkeypatch.setattr(samples, "CATEGORIES", [{"id": i, "name": name} for name, i in ids.items()])
        monkeypatch.setattr(samples, "COLOURS", {ids["dog"]: (255, 0, 0), ids["cat"]: (0, 255, 0)})
        for split in ("train", "test"):
            cells(tmp_path / kind, split)
        return open_data(f"coco:{tmp_path / kind}")

    return make


@pytest.fixture
def context(tmp_path: Path, data_of: Callable[[str], DataSpec]) -> Context:
    return Context(Store(tmp_path / "store"), data_of("good"))


@pytest.fixture
def dense(tmp_path: Path, context: Context) -> Artifact:
    return run_stage(Intake(model=write_model(tmp_path / "net.py", SOURCE)), None, context).artifact


def test_accuracy_is_of_the_model_s_own_classes(
    dense: Artifact, context: Context, data_of: Callable[[str], DataSpec]
) -> None:
    found = accuracy_of(dense, context)
    assert found is not None
    assert found.value == pytest.approx(1.0)
    with pytest.raises(ClassMismatchError, match="class 0 is 'cat' in the images and 'dog' in the model"):
        accuracy_of(dense, replace(context, data=data_of("swapped")))


@pytest.mark.parametrize(
    "stage",
    [
        Sensitivity(images=2, calibration_images=2, score="magnitude"),
        Prune(epochs=0, score="magnitude", calibration_images=2),
        Qat(epochs=0, calibration_images=2),
        Prune(epochs=0.5, calibration_images=2),
    ],
    ids=["sensitivity", "prune without training", "qat without training", "prune"],
)
def test_categories_in_another_order_are_refused_before_the_work(
    stage: Stage, dense: Artifact, context: Context, data_of: Callable[[str], DataSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(stage), "run", lambda *_: pytest.fail("work was done"))
    with pytest.raises(ClassMismatchError, match="class 0 is 'cat' in the images"):
        run_stage(stage, dense, replace(context, data=data_of("swapped")))


def test_images_may_serve_statistics_alone_where_that_is_said(
    dense: Artifact, context: Context, data_of: Callable[[str], DataSpec]
) -> None:
    other = replace(context, data=data_of("swapped"))
    found = run_stage(Qat(epochs=0, calibration_images=2, supervised=False), dense, other)
    assert found.artifact.kind == "quantized"
    pruned = Prune(epochs=0, score="magnitude", also_prune=("*head",))
    assert run_stage(pruned, dense, replace(context, data=None)).artifact.kind == "sparse"


def test_train_refuses_other_classes_before_it_trains(
    tmp_path: Path, context: Context, data_of: Callable[[str], DataSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpusq.training.fit", lambda *_, **__: pytest.fail("it was trained"))
    train = Train(model=write_model(tmp_path / "net.py", SOURCE), epochs=1, batch_size=2)
    with pytest.raises(ClassMismatchError, match="class 0 is 'cat' in the images"):
        run_stage(train, None, replace(context, data=data_of("swapped")))


def test_train_keeps_a_trained_head_with_gaps_and_says_where_a_head_is_fresh(tmp_path: Path, context: Context) -> None:
    folder = gapped_directory(tmp_path / "detr")
    heard: list[str] = []
    listening = replace(context, progress=lambda what, done, total, note: heard.append(note))
    trained = load_model(f"hf:{folder}")
    made = run_stage(Train(model=f"hf:{folder}", epochs=0, batch_size=2), None, listening).artifact
    assert made.read_json("model.json")["classes"] == list(trained.description.classes)
    assert "fresh_head" not in made.manifest.facts
    assert not any("fresh head" in note for note in heard)

    plain = gapped_directory(tmp_path / "plain", names=["a", "b", "c"])
    made = run_stage(Train(model=f"hf:{plain}", epochs=0, batch_size=2), None, listening).artifact
    assert made.read_json("model.json")["classes"] == ["dog", "cat"]
    assert any("class_labels_classifier" in name for name in made.manifest.facts["fresh_head"])
    assert any(note.startswith("a fresh head for 2 classes") for note in heard)
