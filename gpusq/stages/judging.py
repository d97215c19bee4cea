"""Outputs judged: by labels, by annotated boxes, or by another form of the same model. One tally for each task.

A tally takes batches of outputs (name -> array, first axis the image) and gives one figure from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gpusq.errors import CheckError, DataError

if TYPE_CHECKING:
    from torch import nn

    from gpusq.data import Batch, ImageSet
    from gpusq.models import ModelDescription
    from gpusq.stages.sensitivity_scan import Loss

Outputs = Mapping[str, np.ndarray]
"""Output name -> array [B, ...], as `ModelDescription.outputs` names them."""
AGREEMENT = "agreement with the dense model"
JUDGE_BATCH = 32
POINTS = 100.0


class Tally(Protocol):
    """Counts over batches. metric: its name. n: images seen, or annotated boxes where these are what is counted."""

    metric: str
    n: int

    def add(self, outputs: Outputs, batch: Batch, reference: Outputs | None) -> None:
        """Take one batch; reference: the dense model's outputs on it, where there are no labels."""
        ...

    def value(self) -> float:
        """The figure, 0 to 1."""
        ...

    def extra(self) -> dict[str, float]:
        """Further figures of the same run."""
        ...


class Shares:
    """Right answers of a classifier, or equal answers of any two models, over all images."""

    def __init__(self, metric: str, right: Any) -> None:
        self.metric, self.n = metric, 0
        self._right, self._sum = right, 0.0

    def add(self, outputs: Outputs, batch: Batch, reference: Outputs | None) -> None:
        self._sum += self._right(outputs, batch, reference)
        self.n += len(batch.ids)

    def value(self) -> float:
        return self._sum / self.n if self.n else 0.0

    def extra(self) -> dict[str, float]:
        return {}


class AveragePrecision:
    """COCO AP of a detector over annotated images; AP50 and AP75 beside it. n counts boxes, all but crowds."""

    metric = "AP"

    def __init__(self, activation: Any, classes: Sequence[str]) -> None:
        self.n = 0
        self._activation, self._classes = activation, tuple(classes)
        self._found: list[Any] = []
        self._truth: list[Any] = []

    def add(self, outputs: Outputs, batch: Batch, reference: Outputs | None) -> None:
        from gpusq.data import detections_of

        if batch.targets is None:
            raise CheckError("average precision needs annotated boxes", got="none", do="report this")
        for logits, boxes, target in zip(outputs["logits"], outputs["boxes"], batch.targets, strict=True):
            self._found.append(detections_of(logits, boxes, self._activation, target.size))
            self._truth.append(target)
            self.n += int((~target.crowd).sum())

    def value(self) -> float:
        return float(self._points().ap) / POINTS

    def extra(self) -> dict[str, float]:
        found = self._points()
        return {"AP50": found.ap50 / POINTS, "AP75": found.ap75 / POINTS}

    def _points(self) -> Any:
        """Raises DataError where no image holds an object: then there is no average precision."""
        from gpusq.data import average_precision

        found = average_precision(self._found, self._truth, self._classes)
        if found.ap is None:
            raise DataError(
                "average precision needs at least one annotated object",
                got=f"{len(self._truth)} images without one",
                do="give test images with boxes",
            )
        return found


def tally_of(description: Mapping[str, Any], supervised: bool) -> Tally:
    """The tally for a model (model.json) on labelled or unlabelled images."""
    task = description.get("task", "classification")
    if supervised and task == "classification":
        return Shares("top1", _right_labels)
    if supervised and task == "detection":
        return AveragePrecision(description["activation"], description["classes"])
    return Shares(AGREEMENT, _agreeing(description))


def _right_labels(outputs: Outputs, batch: Batch, reference: Outputs | None) -> float:
    from gpusq.data import top1

    if batch.labels is None:
        raise CheckError("images are judged by labels or by a reference", got="neither", do="report this")
    return round(top1(outputs["logits"], batch.labels) * len(batch.ids))


def _agreeing(description: Mapping[str, Any]) -> Any:
    """Images of a batch, as a sum of shares, on which two forms agree."""

    def agreeing(outputs: Outputs, batch: Batch, reference: Outputs | None) -> float:
        from gpusq.graph.output_parity import compare_outputs

        if reference is None:
            raise CheckError("images without labels are judged by a reference", got="none", do="report this")
        return compare_outputs(description, reference, outputs).top1 * len(batch.ids)

    return agreeing


def run_module(module: nn.Module, names: Sequence[str], pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs of a torch module on images [B, C, H, W] float32, on the module's own device."""
    import torch

    first = next(module.parameters(), None)
    images = torch.from_numpy(pixels)
    with torch.inference_mode():
        raw = module(images if first is None else images.to(first.device))
    tensors = raw if isinstance(raw, (tuple, list)) else (raw,)
    return {n: t.float().cpu().numpy() for n, t in zip(names, tensors, strict=True)}


class Judge:
    """Variants of one model against the model as it is now, on images held in memory."""

    def __init__(
        self, description: ModelDescription, batches: Sequence[Batch], module: nn.Module, supervised: bool, split: str
    ) -> None:
        self._facts = description.model_dump(mode="json")
        self._batches, self._supervised = list(batches), supervised
        self._names = description.outputs
        self._dense = [run_module(module, self._names, b.pixel_values) for b in self._batches]
        self.n, self.split = sum(len(b.ids) for b in self._batches), split
        tally = self._tally(self._dense)
        self.metric, self.dense_value = tally.metric, tally.value()
        self.resolution = POINTS / max(tally.n, 1)  # one image, or one box, more or less

    @classmethod
    def on_images(
        cls, description: ModelDescription, images: ImageSet, indices: Sequence[int], module: nn.Module
    ) -> Judge:
        """Judge on the images at `indices` of a set."""
        from gpusq.stages.images import batches_of

        batches = [batch for _, batch in batches_of(images, description, indices, JUDGE_BATCH)]
        return cls(description, batches, module, images.supervised, f"{images.name} {images.split}")

    def loss(self, module: nn.Module) -> Loss:
        """Points of the metric that `module` loses, and the relative error of its outputs (0: equal)."""
        from gpusq.stages.sensitivity_scan import Loss

        found = [run_module(module, self._names, b.pixel_values) for b in self._batches]
        points = (self.dense_value - self._tally(found).value()) * POINTS
        return Loss(round(points, 6), round(_error(self._dense, found), 9))

    def _tally(self, found: Sequence[Outputs]) -> Tally:
        tally = tally_of(self._facts, self._supervised)
        for outputs, dense, batch in zip(found, self._dense, self._batches, strict=True):
            tally.add(outputs, batch, None if self._supervised else dense)
        return tally


def _error(expected: Sequence[Outputs], found: Sequence[Outputs]) -> float:
    """Root of the summed squared differences over that of the expected values, the worst of the outputs."""
    worst = 0.0
    for name in expected[0]:
        pairs = [(a[name].astype(np.float64), b[name].astype(np.float64)) for a, b in zip(expected, found, strict=True)]
        scale = sum(float(np.square(a).sum()) for a, _ in pairs)
        apart = sum(float(np.square(a - b).sum()) for a, b in pairs)
        worst = max(worst, float(np.sqrt(apart / scale)) if scale else float(np.sqrt(apart)))
    return worst


def joined(parts: Sequence[Outputs]) -> dict[str, np.ndarray]:
    """Batches of outputs as one."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
