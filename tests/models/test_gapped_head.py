"""A detector with one output for each COCO category id, gaps among them, against annotations without gaps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gpusq.data import ImageSet, Loader, Preprocess, open_data
from gpusq.data.classes import in_model_classes
from gpusq.errors import ClassMismatchError
from gpusq.models import LoadedModel, load_model
from gpusq.models.detector_presets import DETECTOR_PRESETS
from gpusq.models.fresh import fresh_other
from gpusq.models.huggingface import config_class, quiet
from gpusq.stages.images import training_batch
from gpusq.stages.judging import tally_of
from tests.data.box_samples import write_json
from tests.models.model_samples import write_model

# Sees a red cell as a dog (output 1) and a green one as a cat (output 3); its boxes are the 16 cells of 8 x 8 pixels.
SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.head, self.box = nn.Conv2d(3, 4, 8, stride=8), nn.Linear(4, 5), nn.Linear(4, 4)
        places = (torch.arange(4) + 0.5) / 4
        y, x = torch.meshgrid(places, places, indexing="ij")
        sides = torch.full((16,), 0.25)
        self.register_buffer("grid", torch.stack([x.flatten(), y.flatten(), sides, sides], dim=1))
        with torch.no_grad():
            for part in (self.cells, self.head, self.box):
                part.weight.zero_(), part.bias.zero_()
            self.cells.weight[0, 0], self.cells.weight[1, 1] = 1 / 64, 1 / 64
            self.head.bias.fill_(-8)
            self.head.weight[1, 0] = self.head.weight[3, 1] = 16

    def forward(self, x):
        x = self.cells(x).flatten(2).transpose(1, 2)
        return self.head(x), self.grid + self.box(x)

def build(classes=None):
    names = ["N/A", "dog", "N/A", "cat", "LABEL_4"]
    facts = {"input_shape": (3, 32, 32), "classes": names, "mean": (0, 0, 0), "std": (1, 1, 1)}
    return Net(), facts
"""
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}]
COLOURS = {1: (255, 0, 0), 3: (0, 255, 0)}


def cells(root: Path, split: str) -> None:
    """Four images with a red and a green cell each, and their annotations."""
    images, annotations = [], []
    rng = np.random.default_rng(0)
    (root / split).mkdir(parents=True)
    for i in range(4):
        pixels = np.zeros((32, 32, 3), np.uint8)
        for category, cell in zip((1, 3), rng.choice(16, 2, replace=False).tolist(), strict=True):
            x, y = 8 * (cell % 4), 8 * (cell // 4)
            pixels[y : y + 8, x : x + 8] = COLOURS[category]
            own = {"id": len(annotations), "image_id": i, "category_id": category, "bbox": [x, y, 8, 8]}
            annotations.append(own)
        Image.fromarray(pixels).save(root / split / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 32, "height": 32})
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    write_json(root / split / "_annotations.coco.json", content)


def gapped_directory(folder: Path, names: Sequence[str] = ("N/A", "dog", "N/A", "cat", "N/A")) -> Path:
    """A transformers directory of a small DETR whose outputs have these names."""
    preset = DETECTOR_PRESETS["detr-mini"]
    values = {**preset.config(64, 12, len(names)), "num_labels": len(names)}
    config = config_class("detr")(**values, architectures=["DetrForObjectDetection"])
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}
    module: Any = fresh_other("DetrForObjectDetection", config, 0)[0]
    with quiet():
        module.save_pretrained(folder)
    sizes = {"size": {"height": 64, "width": 64}}
    (folder / "preprocessor_config.json").write_text(json.dumps(sizes), encoding="utf-8")
    return folder


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    cells(tmp_path / "set", "train")
    cells(tmp_path / "set", "test")
    return open_data(f"coco:{tmp_path / 'set'}").test


@pytest.fixture
def model(tmp_path: Path) -> LoadedModel:
    return load_model(write_model(tmp_path / "net.py", SOURCE))


def loader_of(images: ImageSet) -> Loader:
    return Loader(images, Preprocess(size=(32, 32), channels=3, mean=(0, 0, 0), std=(1, 1, 1), resize="bilinear"))


def points(model: LoadedModel, images: ImageSet) -> tuple[float, int]:
    """(AP, boxes that counted)."""
    about: dict[str, Any] = model.description.model_dump(mode="json")
    tally, batch = tally_of(about, images.supervised), loader_of(images).arrays()
    with torch.no_grad():
        logits, boxes = model.module(torch.from_numpy(batch.pixel_values))
    tally.add({"logits": logits.numpy(), "boxes": boxes.numpy()}, batch, None)
    return tally.value(), tally.n


def test_boxes_are_judged_as_the_models_own_outputs(model: LoadedModel, images: ImageSet) -> None:
    assert images.classes == ("dog", "cat")
    renumbered = in_model_classes(images, model.description.classes)
    assert points(model, renumbered) == (pytest.approx(1.0), 8)
    assert points(model, images)[0] < 0.5  # numbers 0 and 1 are other outputs of this head


def test_boxes_are_learned_as_the_models_own_outputs(model: LoadedModel, images: ImageSet) -> None:
    found = training_batch(loader_of(in_model_classes(images, model.description.classes)), range(4), None)
    assert found.targets is not None
    assert {int(i) for classes, _ in found.targets for i in classes} == {1, 3}


def test_the_images_may_ask_for_as_many_classes_as_the_head_has_names(tmp_path: Path) -> None:
    spec = write_model(tmp_path / "net.py", SOURCE)
    assert len(load_model(spec, classes=2).description.classes) == 5
    with pytest.raises(ClassMismatchError):
        load_model(spec, classes=3)


def test_a_directory_s_trained_head_stays_where_as_many_of_its_outputs_have_names(tmp_path: Path) -> None:
    spec = f"hf:{gapped_directory(tmp_path / 'detr')}"
    trained = load_model(spec)
    assert trained.description.classes == ("N/A", "dog", "N/A", "cat", "N/A")
    for count in (2, 5):
        same = load_model(spec, classes=count)
        assert (same.description, same.fresh) == (trained.description, ())
        for name, tensor in trained.module.state_dict().items():
            assert torch.equal(same.module.state_dict()[name], tensor), name
    other = load_model(spec, classes=3)
    assert other.description.classes == ("0", "1", "2")
    assert other.fresh == ("class_labels_classifier.bias", "class_labels_classifier.weight")
