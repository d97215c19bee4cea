"""Fashion-MNIST through a frozen network, and a linear head fitted on what comes out."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers import Dinov2ForImageClassification

IMAGE_PX = 112
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STRENGTHS = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)  # of the L2 penalty, tried on images held out of the train split


def fashion_mnist(folder: Path, split: str, count: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The first `count` images [n, 28, 28] and labels [n] of "train" or "t10k"."""
    images = np.frombuffer(
        gzip.decompress((folder / f"{split}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16
    )
    labels = np.frombuffer(gzip.decompress((folder / f"{split}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    return images.reshape(-1, 28, 28)[:count], labels[:count].astype(np.int64)


def pixels(images: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Grey [n, 28, 28] -> normalised [n, 3, 112, 112], resized by PIL's bilinear filter."""
    large = [Image.fromarray(image).resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BILINEAR) for image in images]
    grey = torch.from_numpy(np.stack([np.asarray(image, dtype=np.float32) for image in large]) / 255)
    return (grey[:, None] - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


@torch.inference_mode()
def features(
    model: Dinov2ForImageClassification, images: npt.NDArray[np.uint8], depths: Sequence[int]
) -> dict[int, torch.Tensor]:
    """What the head sees when the network stops after each of `depths` blocks: class token and mean patch, [n, 768]."""
    rows: dict[int, list[torch.Tensor]] = {depth: [] for depth in depths}
    for start in range(0, len(images), 16):
        hidden = model.dinov2(pixels(images[start : start + 16]), output_hidden_states=True).hidden_states
        for depth in depths:
            tokens = model.dinov2.layernorm(hidden[depth])
            rows[depth].append(torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1))
    return {depth: torch.cat(parts) for depth, parts in rows.items()}


def fit_head(x: torch.Tensor, labels: torch.Tensor, l2: float) -> torch.nn.Linear:
    """Logistic regression on [n, 768], fitted on standardised features and returned for the plain ones."""
    centre, spread = x.mean(dim=0), x.std(dim=0).clamp_min(1e-6)
    scaled = (x - centre) / spread
    head = torch.nn.Linear(x.shape[1], int(labels.max()) + 1)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(head(scaled), labels) + l2 * head.weight.square().sum() / 2
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        head.weight.div_(spread)
        head.bias.sub_(head.weight @ centre)
    return head


def top1(head: torch.nn.Linear, x: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.inference_mode():
        return float((head(x).argmax(dim=1) == labels).double().mean())


def choose_head(x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.nn.Linear, float, float]:
    """(head fitted on all of x, the L2 that did best on the last fifth of x, its top-1 there)."""
    kept = len(x) * 4 // 5
    scores = {l2: top1(fit_head(x[:kept], labels[:kept], l2), x[kept:], labels[kept:]) for l2 in STRENGTHS}
    best = max(scores, key=lambda l2: scores[l2])
    return fit_head(x, labels, best), best, scores[best]
