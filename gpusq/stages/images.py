"""Images for a stage: the loader that a model's description asks for, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from gpusq.data import Batch, ImageSet, Loader
    from gpusq.models import ModelDescription
    from gpusq.training import Batch as TrainingBatch


def loader_of(images: ImageSet, description: Mapping[str, Any]) -> Loader:
    """A loader that prepares images as `description` (model.json) says."""
    from gpusq.data import Loader, Preprocess

    channels, height, width = description["input_shape"]
    preprocess = Preprocess(
        size=(height, width),
        channels=channels,
        mean=tuple(description["mean"]),
        std=tuple(description["std"]),
        resize=description["resize"],
    )
    return Loader(images, preprocess)


def batches_of(
    images: ImageSet, description: ModelDescription, indices: Sequence[int], size: int
) -> Iterator[tuple[int, Batch]]:
    """(images done before, batch) over the given indices, in order; batches of unreadable images alone are left out."""
    loader = loader_of(images, description.model_dump(mode="json"))
    for start in range(0, len(indices), size):
        batch = loader.batch(indices[start : start + size])
        if len(batch.ids):
            yield start, batch


def draw(images: int, count: int, seed: int) -> list[int]:
    """`count` indices of a set (all of it where it has fewer), drawn by seed, ascending."""
    import torch

    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    return sorted(order[:count].tolist())


def training_batch(loader: Loader, indices: Sequence[int], augment_seed: int | None) -> TrainingBatch:
    """Images and labels as tensors; unreadable images are replaced by readable ones of the same batch.

    Raises CorruptImagesError where none is readable.
    """
    import torch

    from gpusq.errors import CorruptImagesError
    from gpusq.training import Batch as Made

    found = loader.batch(indices)
    if not len(found.ids):
        raise CorruptImagesError("a batch must hold a readable image", got="none", do="mend the files")
    pick = [i % len(found.ids) for i in range(len(indices))]
    images = torch.from_numpy(found.pixel_values[pick] if found.skipped else found.pixel_values)
    labels = None if found.labels is None else torch.from_numpy(found.labels[pick] if found.skipped else found.labels)
    return Made(images if augment_seed is None else flipped_and_shifted(images, augment_seed), labels)


def flipped_and_shifted(images: Tensor, seed: int) -> Tensor:
    """Each image [B, C, H, W] flipped with probability one half and shifted by up to an eighth; edges repeat."""
    import torch
    from torch.nn import functional as F

    generator = torch.Generator().manual_seed(seed)
    size, (height, width) = len(images), images.shape[-2:]
    flip = torch.rand(size, generator=generator) < 0.5
    reach = max(1, min(height, width) // 8)
    padded = F.pad(torch.where(flip[:, None, None, None], images.flip(-1), images), (reach,) * 4, mode="replicate")
    top, left = torch.randint(0, 2 * reach + 1, (2, size), generator=generator)
    rows = (top[:, None] + torch.arange(height))[:, None, :, None]  # [B, 1, H, 1]
    columns = (left[:, None] + torch.arange(width))[:, None, None, :]  # [B, 1, 1, W]
    index = torch.arange(size)[:, None, None, None]
    channels = torch.arange(images.shape[1])[None, :, None, None]
    return padded[index, channels, rows, columns]
