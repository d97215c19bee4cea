"""Trains a small sparse quantized transformer from a command line, for tests that kill it or run it twice over.

usage: train_driver.py OUT.safetensors [--checkpoints DIR] [--every N] [--steps N] [--plain]
Prints "step N" as it goes; rank 0 writes the final tensors.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gpusq.models import gemm_layers, load_model
from gpusq.quantization import calibrate, insert, place, set_mode
from gpusq.sparsity import mask_nm
from gpusq.training import Batch, Settings, fit

IMAGES = 40
BATCH = 8


def data() -> tuple[Tensor, Tensor]:
    """Random images and labels, the same in every process."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(IMAGES) % 10
    return torch.randn(IMAGES, 3, 32, 32, generator=generator) + labels.view(-1, 1, 1, 1) / 5, labels


def subject(images: Tensor, *, plain: bool) -> tuple[nn.Module, dict[str, Tensor]]:
    """The model with its masks; quantizers learn their scales unless `plain`."""
    loaded = load_model("new:vit-test", seed=1)
    layers = [x for x in gemm_layers(loaded.module, loaded.keep_dense) if x.name not in loaded.keep_dense]
    weights = {x.name: loaded.module.get_parameter(f"{x.name}.weight") for x in layers}
    masks = {name: mask_nm(w.detach().abs(), 2, 4) for name, w in weights.items()}
    if not plain:
        insert(loaded.module, place("inputs", layers))
        calibrate(loaded.module, [images[:BATCH]], "mse")
        set_mode(loaded.module, "learn")
    return loaded.module, masks


def loss_of(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross entropy."""
    if batch.labels is None:
        raise ValueError("labels are needed")
    return nn.functional.cross_entropy(model(batch.images), batch.labels), {}


def main() -> None:
    """Train and write the tensors."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--checkpoints", type=Path)
    parser.add_argument("--every", type=int, default=0)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    images, labels = data()
    model, masks = subject(images, plain=options.plain)

    def batch_of(indices: list[int], step: int) -> Batch:
        sys.stdout.write(f"step {step}\n")
        sys.stdout.flush()
        return Batch(images[indices], labels[indices])

    settings = Settings(options.steps, BATCH, 1e-3, scale_rate=5.0, checkpoint_every=options.every)
    fit(model, loss_of, batch_of, IMAGES, settings, masks=masks, checkpoints=options.checkpoints)
    if os.environ.get("RANK", "0") == "0":
        save_file({n: t.contiguous() for n, t in model.state_dict().items()}, options.out)


if __name__ == "__main__":
    main()
