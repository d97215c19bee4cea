"""Anybody's models and images through every stage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gpusq.pipeline import Compressed
from gpusq.workload import Layer
from tests.chain import Chain, hf_directory, image_folder, recipe_of, run_chain

OWN_MODEL = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        wide, narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.feed = nn.Sequential(nn.LayerNorm(width), wide, nn.GELU(), narrow)

    def forward(self, x):
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.feed(x)


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.body = nn.Conv2d(16, 32, 3, stride=2, padding=1, groups=2)
        self.blocks = nn.ModuleList(Block(32) for _ in range(2))
        self.head = nn.Linear(32, classes)

    def forward(self, pixel_values):
        x = torch.relu(self.body(torch.relu(self.stem(pixel_values))))
        x = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def build(classes=4):
    return Net(classes), {"input_shape": (3, 16, 16), "classes": classes}
"""


def layers_of(result: Compressed, stage: str) -> list[Layer]:
    step = next(s for s in result.steps if s.done.artifact.manifest.stage == stage)
    return [Layer(**x) for x in step.done.artifact.read_json("layers.json")]


@pytest.mark.slow
def test_a_model_from_a_file(chain: Chain, tmp_path: Path) -> None:
    """Packed attention and convolutions: every GEMM is reached, and what stays dense is listed with its reason."""
    (tmp_path / "net.py").write_text(OWN_MODEL)
    result = run_chain(tmp_path / "store", recipe_of(f"{tmp_path / 'net.py'}:build", chain.images, targets=("a100",)))
    layers = {x.name.removeprefix("model."): x for x in layers_of(result, "qat")}
    projections = {f"blocks.{b}.attention.{p}_proj" for b in (0, 1) for p in ("q", "k", "v", "out")}
    expected = {"stem", "body", "head", *projections, *(f"blocks.{b}.feed.{i}" for b in (0, 1) for i in (1, 3))}
    assert layers.keys() == expected
    assert {n for n, x in layers.items() if not x.sparse} == {"stem", "head"}
    assert {n for n, x in layers.items() if not x.int8} == {"head"}
    assert all(x.why_dense for x in layers.values() if not x.sparse)
    assert all(x.why_float for x in layers.values() if not x.int8)
    onnx = next(s.done.artifact for s in result.steps if s.done.artifact.kind == "onnx")
    assert onnx.read_json("export.json")["parity_fp32"]["n"] == len(chain.context(None).images("test").test)  # type: ignore[arg-type]
    listed = result.report.rows[-1].coverage
    assert listed is not None
    assert {e.name.removeprefix("model.") for e in listed.dense} >= {"stem", "head"}
    assert all(e.reason for e in (*listed.dense, *listed.float))


@pytest.mark.slow
def test_a_transformers_directory(chain: Chain, tmp_path: Path) -> None:
    model = f"hf:{hf_directory(tmp_path / 'model')}"
    result = run_chain(tmp_path / "store", recipe_of(model, chain.images))
    layers = layers_of(result, "qat")
    assert sum(x.sparse for x in layers) == len(layers) - 1
    assert {s.done.artifact.kind for s in result.steps} == {"dense", "sparse", "quantized", "onnx", "engine"}
    shutil.move(tmp_path / "model", tmp_path / "moved")
    again = run_chain(tmp_path / "store", recipe_of(f"hf:{tmp_path / 'moved'}", chain.images))
    assert all(s.done.reused for s in again.steps), "the content of the model counts, not its place"


def flat_folder(root: Path) -> Path:
    """Images without labels."""
    images = image_folder(root / "sorted", each=10)
    (root / "flat").mkdir()
    for i, path in enumerate(sorted(images.rglob("*.png"))):
        shutil.copy(path, root / "flat" / f"{i:03d}.png")
    return root / "flat"


@pytest.mark.slow
def test_images_without_labels(tmp_path: Path) -> None:
    settings = ("prune.supervised=false", "qat.supervised=false", "prune.epochs=1", "qat.epochs=1")
    recipe = recipe_of("new:vit-test?layers=1", flat_folder(tmp_path), *settings)
    result = run_chain(tmp_path / "store", recipe)
    found = {r.accuracy.metric for r in result.report.rows if r.accuracy}
    assert found == {"agreement with the dense model"}
    dense = next(r for r in result.report.rows if r.artifact.kind == "dense")
    assert dense.accuracy is not None
    assert dense.accuracy.value == 1.0
    assert all(r.accuracy is not None and 0 <= r.accuracy.value <= 1 for r in result.report.rows)
