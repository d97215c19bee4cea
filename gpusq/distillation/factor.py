"""The sparse-distillation-aware weight factor: how much each block's feature loss counts in QAT."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, get_args

from gpusq.errors import NonFiniteError, UsageError

Factor = Literal["inverse", "proportional", "uniform"]
FLOOR = 1e-3  # share of the mean loss below which a block counts no smaller, so that no factor explodes


def weight_factor(losses: Mapping[str, float], mode: Factor = "inverse") -> dict[str, float]:
    """Block -> factor, mean 1, from the feature losses recorded while pruning.

    inverse: a larger pruning loss gives a smaller factor (the reading of GPUSQ-ViT, arXiv:2305.10727);
    proportional: the opposite; uniform: 1. Losses that are all zero give 1. Raises UsageError for another mode,
    NonFiniteError for a negative or non-finite loss.
    """
    if mode not in get_args(Factor):
        raise UsageError(f"a factor is one of {', '.join(get_args(Factor))}", got=repr(mode), do="choose one of them")
    for name, loss in losses.items():
        if not math.isfinite(loss) or loss < 0:
            raise NonFiniteError(f"the pruning loss of {name} must be finite and not negative", got=str(loss))
    mean = sum(losses.values()) / max(len(losses), 1)
    if mode == "uniform" or mean == 0:
        return dict.fromkeys(losses, 1.0)
    floored = {name: max(loss, FLOOR * mean) for name, loss in losses.items()}
    raw = {name: 1 / loss if mode == "inverse" else loss for name, loss in floored.items()}
    scale = len(raw) / sum(raw.values())
    return {name: value * scale for name, value in raw.items()}
