"""Images for a stage: the loader that a model's description asks for, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpusq.data import Batch, ImageSet, Loader
    from gpusq.models import ModelDescription


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
