"""Models of the transformers library with fresh weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gpusq.models.heads import DETECTOR_HEAD
from gpusq.models.huggingface import (
    auto_class,
    build,
    config_class,
    import_transformers,
    plain_config,
    quiet,
    seeded,
)

SELECTING_HEADS = ("enc_score_head", "enc_out_class_embed")


def fresh_model(family: str, config: dict[str, Any], classes: int, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """A classifier of a family with fresh weights; also its full configuration as plain data."""
    full = config_class(family)(**config, num_labels=classes, architectures=[])
    with quiet(), seeded(seed):
        module = build(auto_class(), full)
    return module, plain_config(module.config)


def fresh_other(architecture: str, config: Any, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """A model of a named class with fresh weights; also its full configuration as plain data."""
    with quiet(), seeded(seed):
        module = build(getattr(import_transformers(), architecture), config)
        if DETECTOR_HEAD in architecture:
            spread_fresh(module)
    return module, plain_config(module.config)


def spread_fresh(module: nn.Module) -> None:
    """Give a fresh detector weights that tell places and queries apart, so that runtimes can be compared on it.

    transformers starts most layers near 0 (linear ones at a deviation of 0.02, RT-DETR's batch norms at 0.01), last
    box layers and YOLOS' tokens at 0: every query then finds the same box, every place has the same score, and which
    of them are selected differs from runtime to runtime. As in the original DETR, linear layers get Xavier weights and
    query embeddings a deviation of 1; the heads that select queries get 1 as well, convolutions He weights and batch
    norms 1. Biases stay.
    """
    with torch.no_grad():
        for name, part in module.named_modules():
            if isinstance(part, nn.Embedding) or any(key in name for key in SELECTING_HEADS):
                for parameter in (p for p in part.parameters(recurse=False) if p.dim() == 2):
                    nn.init.normal_(parameter)
            elif isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
            elif isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)
            elif isinstance(part, nn.BatchNorm2d):
                nn.init.ones_(part.weight)
        for parameter in module.parameters():
            if parameter.dim() > 2 and not bool(parameter.any()):
                nn.init.normal_(parameter)
