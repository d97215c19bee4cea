"""COCO average precision: computed by faster-coco-eval, the C++ form of the COCO project's own evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpusq.data.boxes import Boxes
from gpusq.data.detections import TOP, Detections
from gpusq.errors import ClassMismatchError, DataError, MissingExtraError, NonFiniteError

UNDEFINED = -1.0  # what COCO's tools write where there is nothing to average
STATISTICS = {"ap": 0, "ap50": 1, "ap75": 2, "ar100": 8}
"""Places in COCO's twelve numbers; 8 is the recall at 100 detections an image."""


@dataclass(frozen=True)
class AP:
    """Average precision in points, 0..100; None where it is not defined because no object counts.

    ap: mean over IoU 0.50, 0.55 .. 0.95 and over the classes that occur. ap50, ap75: at that IoU. ar100: mean recall
    over the same IoUs with at most 100 detections an image and class. n_images: images judged, empty ones included.
    n_boxes: objects that count, that is without crowds.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ar100: float | None
    n_images: int
    n_boxes: int

    def sentence(self) -> str:
        """ "AP 41.2, AP50 60.3 (20 images, 279 boxes)", or that it is not defined."""
        counts = f"({self.n_images} images, {self.n_boxes} boxes)"
        if self.ap is None or self.ap50 is None:
            return f"AP is not defined without objects to find {counts}"
        return f"AP {self.ap:.1f}, AP50 {self.ap50:.1f} {counts}"


def average_precision(detections: Sequence[Detections], targets: Sequence[Boxes], classes: Sequence[str]) -> AP:
    """COCO AP of detections[i] against targets[i], one of each for every image judged.

    As COCO defines it: a crowd is neither found nor missed and any number of detections may lie on it; a class that
    no counted object has is left out of the means; an image without objects counts through its false detections;
    of one image and class the 100 best detections are judged. Boxes are taken as annotated, the way COCO's tools take
    them: an object without extent counts and is never found, one wholly outside its image counts too, and a box that
    reaches over the edge is not cut, although a detector learns from the part inside. Source:
    cocodataset.org/#detection-eval; Lin et al. 2014, arXiv:1405.0312.
    Raises DataError where the lists differ in length, ClassMismatchError for a class number outside `classes`,
    NonFiniteError for a score or box that is not finite, MissingExtraError without faster-coco-eval.
    """
    if len(detections) != len(targets):
        got = f"{len(detections)} and {len(targets)}"
        raise DataError("each image needs its detections and its boxes", got=got)
    _check(detections, targets, len(classes))
    counted = sum(int((~boxes.crowd).sum()) for boxes in targets)
    if not counted:
        return AP(None, None, None, None, len(targets), 0)
    statistics = _statistics(_truth(targets, classes), _results(detections))
    points = {name: _points(statistics[place]) for name, place in STATISTICS.items()}
    return AP(**points, n_images=len(targets), n_boxes=counted)


def _points(share: float) -> float | None:
    return None if share == UNDEFINED else 100 * float(share)


def _check(detections: Sequence[Detections], targets: Sequence[Boxes], classes: int) -> None:
    for i, (found, boxes) in enumerate(zip(detections, targets, strict=True)):
        for labels, whose in ((found.classes, "detections"), (boxes.classes, "annotations")):
            if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
                got = f"{labels.min()} to {labels.max()} in the {whose} of image {i}"
                raise ClassMismatchError(f"classes must be 0 to {classes - 1}", got=got)
        if not (np.isfinite(found.scores).all() and np.isfinite(found.boxes).all()):
            raise NonFiniteError("detections must be finite", got=f"NaN or infinity on image {i}")


def _truth(targets: Sequence[Boxes], classes: Sequence[str]) -> dict[str, Any]:
    """The annotations as one COCO object. Ids begin at 1: 0 stands for "matched to nothing" inside COCO's tools."""
    images = [{"id": i, "height": b.size[0], "width": b.size[1]} for i, b in enumerate(targets, start=1)]
    annotations = [
        {"image_id": i, "category_id": int(label), "bbox": box, "area": float(area), "iscrowd": int(crowd)}
        for i, boxes in enumerate(targets, start=1)
        for box, label, area, crowd in zip(_xywh(boxes.xyxy()), boxes.classes, boxes.area, boxes.crowd, strict=True)
    ]
    numbered = [{"id": i, **annotation} for i, annotation in enumerate(annotations, start=1)]
    categories = [{"id": i, "name": name} for i, name in enumerate(classes)]
    return {"info": {}, "images": images, "annotations": numbered, "categories": categories}


def _results(detections: Sequence[Detections]) -> list[dict[str, Any]]:
    """The detections as COCO's list of results."""
    return [
        {"image_id": i, "category_id": int(label), "bbox": box, "score": float(score)}
        for i, found in enumerate(detections, start=1)
        for box, label, score in zip(_xywh(found.boxes), found.classes, found.scores, strict=True)
    ]


def _xywh(corners: np.ndarray) -> list[list[float]]:
    """(x0, y0, x1, y1) -> (x0, y0, width, height)."""
    wide = corners.astype(np.float64)
    found: list[list[float]] = np.concatenate([wide[:, :2], wide[:, 2:] - wide[:, :2]], axis=1).tolist()
    return found


def _statistics(truth: Mapping[str, Any], results: list[dict[str, Any]]) -> Sequence[float]:
    """COCO's twelve numbers."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise MissingExtraError("faster-coco-eval", "host", "COCO average precision") from error
    known = COCO(truth)
    found = known.loadRes(results) if results else COCO({**truth, "annotations": []})  # loadRes takes no empty list
    evaluation = COCOeval_faster(known, found, "bbox", print_function=_say_nothing)
    evaluation.params.maxDets = [1, 10, TOP]
    evaluation.run()
    statistics: list[float] = [float(value) for value in evaluation.all_stats]
    return statistics


def _say_nothing(*_: object) -> None:
    """In place of the library's log lines."""
