"""A small compressed store and what tests of the chain share: images, contexts, copies, digests of whole stores."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpusq import evidence
from gpusq.artifacts import Artifact, Store
from gpusq.data import open_data
from gpusq.pipeline import Compressed, compress
from gpusq.recipe import Recipe, apply_settings
from gpusq.stages.stage import Context

CLASSES = ("blue", "green", "red", "white")
FAST = (
    "prune.epochs=0.5",
    "prune.batch_size=16",
    "qat.epochs=0.5",
    "qat.batch_size=16",
    "prune.calibration_images=16",
    "qat.calibration_images=16",
    "export.samples=4",
    "build.runtime=onnxruntime",
    "build.rtx_check=off",
    "build.agreement=0.0",  # fresh weights: all classes are nearly equal
    "export.agreement=0.0",
    "export.fp16_agreement=0.0",
)
"""Settings that make every stage of a preset with fresh weights run in a moment."""


@dataclass(frozen=True)
class Chain:
    """One finished run: its store, the folder of its images, its recipe and what it gave."""

    root: Path
    images: Path
    recipe: Recipe
    result: Compressed

    def artifact(self, stage: str, role: str = "model", target: str | None = None) -> Artifact:
        """The artifact of a step."""
        found = [s.done.artifact for s in self.result.steps if s.role == role]
        return next(a for a in found if a.manifest.stage == stage and a.manifest.target == target)

    def copy(self, root: Path) -> Store:
        """The store at another place, to spoil."""
        shutil.copytree(self.root, root)
        return Store(root)

    def context(self, store: Store, **changes: Any) -> Context:
        """A context on the run's images."""
        return Context(store, **{"data": open_data(str(self.images)), **changes})


def image_folder(root: Path, each: int = 16, classes: tuple[str, ...] = CLASSES, side: int = 24) -> Path:
    """root/train/CLASS/*.png and root/val/CLASS/*.png: noise around one colour for each class."""
    for label, name in enumerate(classes):
        for split, count in (("train", each), ("val", max(2, each // 4))):
            for i in range(count):
                draw = np.random.default_rng([label, i, split == "val"])
                colour = np.array([(label >> bit & 1) * 128 + 64 for bit in range(3)])
                pixels = (colour + draw.integers(-60, 61, (side, side, 3))).clip(0, 255)
                write_image(root / split / name / f"{i:03d}.png", pixels.astype(np.uint8))
    return root


def write_image(path: Path, pixels: np.ndarray) -> Path:
    """A picture file with the folders above it."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def hf_directory(path: Path, spoil: Any = None) -> Path:
    """A tiny transformers ViT, as save_pretrained writes it, with its weights changed by `spoil`."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = ViTConfig(image_size=16, patch_size=4, num_labels=len(CLASSES), **sizes)
    ViTForImageClassification(config).save_pretrained(path)
    if spoil is not None:
        weights = load_file(path / "model.safetensors")
        spoil(weights)
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


def recipe_of(model: str, data: Path | str, *settings: str, targets: tuple[str, ...] = ("cpu",)) -> Recipe:
    """A quick recipe."""
    return apply_settings(Recipe(model=model, data=str(data), targets=targets), (*FAST, *settings))


@contextmanager
def quick_timings() -> Iterator[None]:
    """Engines are timed for moments: the figures mean nothing, only that they are there."""
    before = evidence.SECONDS_PER_TIMING
    evidence.SECONDS_PER_TIMING = 0.01
    try:
        yield
    finally:
        evidence.SECONDS_PER_TIMING = before


def run_chain(root: Path, recipe: Recipe, **context: Any) -> Compressed:
    """Compress into the store at `root`."""
    with quick_timings():
        return compress(recipe, Context(Store(root), open_data(recipe.data), **context))


def make_chain(
    root: Path, model: str = "new:vit-test", targets: tuple[str, ...] = ("cpu", "a100", "agx-orin")
) -> Chain:
    """A finished run in root/store on images in root/images."""
    images = image_folder(root / "images")
    recipe = recipe_of(model, images, targets=targets)
    return Chain(root / "store", images, recipe, run_chain(root / "store", recipe))


def tree(root: Path) -> dict[str, str]:
    """Every file and directory below `root` with the hash of its bytes; the lock's own files left out."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "/"
        for path in sorted(root.rglob("*"))
        if path.name not in ("lock", "lock.json")
    }


def after(function: Callable[..., Any], spoil: Callable[..., None]) -> Callable[..., Any]:
    """`function`, and then `spoil` on the same arguments: what a stage wrote is wrong before it is checked."""

    def run(*args: Any, **named: Any) -> Any:
        result = function(*args, **named)
        spoil(*args, **named)
        return result

    return run
