"""Random detector outputs and targets for the tests of this room."""

from __future__ import annotations

import torch
from torch import Tensor

from gpusq.distillation.hungarian import Activation, Target

CLASSES = 3


def boxes(n: int, generator: torch.Generator) -> Tensor:
    """[n, 4] cxcywh with an area, inside 0..1."""
    centre = 0.3 + 0.4 * torch.rand(n, 2, generator=generator)
    return torch.cat((centre, 0.05 + 0.4 * torch.rand(n, 2, generator=generator)), dim=1)


def outputs(batch: int, queries: int, activation: Activation, seed: int) -> tuple[Tensor, Tensor]:
    """(logits [B, Q, K'], boxes [B, Q, 4])."""
    generator = torch.Generator().manual_seed(seed)
    width = CLASSES + (activation == "softmax")
    logits = 2 * torch.randn(batch, queries, width, generator=generator)
    return logits, torch.stack([boxes(queries, generator) for _ in range(batch)])


def targets(counts: list[int], seed: int) -> list[Target]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randint(0, CLASSES, (n,), generator=generator), boxes(n, generator)) for n in counts]


def permuted(pair: tuple[Tensor, Tensor], seed: int) -> tuple[Tensor, Tensor]:
    order = torch.randperm(pair[0].shape[1], generator=torch.Generator().manual_seed(seed))
    return pair[0][:, order], pair[1][:, order]
