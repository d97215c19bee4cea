"""Images for a stage: the loader that a model's description asks for, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from gpusq.data import Batch, BoxAugmentation, Boxes, DetectionSet, ImageSet, Loader
    from gpusq.models import ModelDescription
    from gpusq.stages.stage import Context
    from gpusq.training import Batch as TrainingBatch

NAMED_IMAGES = 3


def check_task(images: ImageSet, description: Mapping[str, Any]) -> None:
    """Raise ClassMismatchError where images are labelled for another task than the model's (model.json)."""
    from gpusq.data import task_of
    from gpusq.errors import ClassMismatchError

    model, labels = description.get("task", "classification"), task_of(images)
    if images.supervised and model != "tensors" and model != labels:
        raise ClassMismatchError(
            f"the model does {model}, so its images are labelled for {model}",
            got=f"{images.name} {images.split}: labels for {labels}",
            do="give coco:DIR or voc:DIR to a detector, class folders to a classifier, or images without labels",
        )


def check_taught(images: ImageSet, stage: str) -> None:
    """Raise UsageError where images without labels, or without a single box, are to be learned from."""
    from gpusq.data import DetectionSet, task_of
    from gpusq.errors import UsageError

    detection = task_of(images) == "detection"
    if not images.supervised:
        sort = "annotate them" if detection else "sort the images into class folders, or give coco:DIR or voc:DIR"
        raise UsageError(
            f"{stage}: supervised training needs labels",
            got=getattr(images, "unlabelled", "images without classes"),
            do=sort if stage == "train" else f"{sort}; supervised = false under [{stage}] learns from the model alone",
        )
    if isinstance(images, DetectionSet) and detection and not _any_boxes(images):
        raise UsageError(
            f"{stage}: the training annotations hold boxes to learn from",
            got=f"none on {len(images)} images of {images.name} {images.split}",
            do="annotate objects; crowds and boxes without extent teach nothing",
        )


def _any_boxes(images: DetectionSet) -> bool:
    return any(len(images.boxes(i).learnable().classes) for i in range(len(images)))


def check_labels(images: ImageSet, description: Mapping[str, Any]) -> None:
    """Raise ClassMismatchError where a model (model.json) can be neither taught nor judged by the images' labels.

    They are of another task (`check_task`), or their classes are not those of the head (`class_check`). Images without
    labels pass, and so do those of a model whose outputs no labels fit: the dense model speaks for them.
    """
    from gpusq.data import class_check

    check_task(images, description)
    if description.get("task") != "tensors":
        class_check(images, tuple(description["classes"]))


def loader_of(images: ImageSet, description: Mapping[str, Any]) -> Loader:
    """A loader that prepares images as `description` (model.json) says. Raises ClassMismatchError (`check_task`)."""
    from gpusq.data import Loader, Preprocess
    from gpusq.data.classes import in_model_classes

    check_task(images, description)
    channels, height, width = description["input_shape"]
    preprocess = Preprocess(
        size=(height, width),
        channels=channels,
        mean=tuple(description["mean"]),
        std=tuple(description["std"]),
        resize=description["resize"],
    )
    return Loader(in_model_classes(images, description["classes"]), preprocess)


def batches_of(
    images: ImageSet,
    description: ModelDescription,
    indices: Sequence[int],
    size: int,
    context: Context | None = None,
    what: str = "images",
) -> Iterator[tuple[int, Batch]]:
    """(images done before, batch) over the given indices, in order; batches of unreadable images alone are left out.

    context: at the end of the pass its progress is told under the name `what` how many images were skipped, if any.
    """
    loader = loader_of(images, description.model_dump(mode="json"))
    yield from batches_in(loader, indices, size)
    if context is not None:
        report_skipped(loader, context, what, len(indices))


def batches_in(loader: Loader, indices: Sequence[int], size: int) -> Iterator[tuple[int, Batch]]:
    """`batches_of` from a loader at hand, whose `unreadable` names what was skipped."""
    for start in range(0, len(indices), size):
        batch = loader.batch(indices[start : start + size])
        if len(batch.ids):
            yield start, batch


def report_skipped(loader: Loader, context: Context, what: str, count: int) -> None:
    """Tell the context's progress, at the end of a pass over `count` images, which ones the loader had to skip."""
    if loader.unreadable:
        context.progress(what, count, count, skipped_note(loader.unreadable))


def skipped_note(ids: Sequence[str]) -> str:
    """ "2 unreadable images skipped: a.jpg, b.jpg", the first few of them named."""
    more = ", ..." if len(ids) > NAMED_IMAGES else ""
    return f"{skipped_count(len(ids))}: {', '.join(ids[:NAMED_IMAGES])}{more}"


def skipped_count(count: int) -> str:
    """ "1 unreadable image skipped"."""
    return f"{count} unreadable image{'s' if count > 1 else ''} skipped"


def draw(images: int, count: int, seed: int) -> list[int]:
    """`count` indices of a set (all of it where it has fewer), drawn by seed, ascending."""
    import torch

    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    return sorted(order[:count].tolist())


def training_batch(
    loader: Loader, indices: Sequence[int], augment_seed: int | None, augmentation: BoxAugmentation | None = None
) -> TrainingBatch:
    """Images with their labels or boxes as tensors; unreadable images are replaced by readable ones of the same batch.

    augment_seed: flips and shifts, or with boxes `augmentation` (default: its defaults); None changes nothing.
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
    if found.targets is not None:
        boxes, ids = [found.targets[i] for i in pick], [found.ids[i] for i in pick]
        return _with_boxes(images, boxes, ids, augment_seed, augmentation)
    labels = None if found.labels is None else torch.from_numpy(found.labels[pick] if found.skipped else found.labels)
    return Made(images if augment_seed is None else flipped_and_shifted(images, augment_seed), labels)


def _with_boxes(
    images: Tensor, boxes: list[Boxes], ids: list[str], seed: int | None, augmentation: BoxAugmentation | None
) -> TrainingBatch:
    """A batch of detection: crowds are left out, since nothing is learned from them."""
    import torch

    from gpusq.data import BoxAugmentation
    from gpusq.training import Batch as Made

    kept = tuple(boxes)
    if seed is not None:
        images, kept = (augmentation or BoxAugmentation())(images, kept, ids, 0, seed)
    learned = [found.learnable() for found in kept]
    targets = tuple((torch.from_numpy(b.classes), torch.from_numpy(b.boxes)) for b in learned)
    return Made(images, None, targets)


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
