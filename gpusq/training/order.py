"""Which images make up step s: a pure function of seed, step, data size and batch size, whatever the process count."""

from __future__ import annotations

from functools import lru_cache

import torch

from gpusq.errors import UsageError


def steps_in(epochs: float, images: int, batch: int) -> int:
    """Optimizer steps in `epochs` passes; at least 1 where epochs is above 0. The last part of a pass is dropped."""
    if epochs <= 0:
        return 0
    return max(1, round(epochs * _per_epoch(images, batch)))


def _per_epoch(images: int, batch: int) -> int:
    return max(1, images // batch)


def batch_indices(step: int, images: int, batch: int, seed: int) -> list[int]:
    """Indices of the global batch of `step` (from 0): each pass is a fresh permutation drawn from (seed, pass).

    With fewer images than `batch`, the batch is the whole set.
    """
    epoch, position = divmod(step, _per_epoch(images, batch))
    order = _permutation(images, seed, epoch)
    return order[position * batch : (position + 1) * batch]


@lru_cache(maxsize=2)
def _permutation(images: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    order: list[int] = torch.randperm(images, generator=generator).tolist()
    return order


def share_of(indices: list[int], rank: int, count: int) -> list[int]:
    """The equal slice of a global batch for process `rank` of `count`. Raises UsageError where it is uneven."""
    if len(indices) % count:
        raise UsageError(
            f"the batch must split evenly over {count} processes",
            got=f"{len(indices)} images",
            do="choose a batch_size that is a multiple of the number of processes",
        )
    size = len(indices) // count
    return indices[rank * size : (rank + 1) * size]
