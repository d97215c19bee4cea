"""What the dense and the compressed detector see on test images, side by side with the annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gpusq.artifacts import Artifact
    from gpusq.reports import Picture
    from gpusq.stages.stage import Context

PICTURES = 6
THRESHOLD = 0.3
"""Scores below are not drawn; a smaller threshold is taken for a detector whose scores are low, see `threshold_of`."""


LEAST_APART = 5
"""Boxes by which two counts must differ at least before a reader is told."""
SHARE_APART = 0.2
"""Share of the first artifact's count by which another's must differ at least."""


@dataclass(frozen=True)
class Pictured:
    """Pictures of test images, and what a reader must know of the scores: counts that are clearly apart."""

    pictures: tuple[Picture, ...] = ()
    cautions: tuple[str, ...] = ()


def detection_pictures(named: Mapping[str, Artifact], context: Context, count: int = PICTURES) -> Pictured:
    """One picture for each of `count` annotated test images: a panel for each artifact, then the annotations.

    named: panel title -> artifact that runs here (models, ONNX, CPU engines). Empty where the run's images carry no
    boxes or no artifact is given. The images are those with most boxes, in the order of the set.
    """
    from gpusq.data import detections_of, task_of
    from gpusq.reports import Picture
    from gpusq.reports.box_pictures import box_pictures
    from gpusq.scoring import predictor_of
    from gpusq.stages.images import loader_of

    test = context.data.test if context.data is not None else None
    if test is None or task_of(test) != "detection" or not test.supervised or not named:
        return Pictured()
    context.progress("pictures", 0, None, f"boxes of {' and '.join(named)} on test images")
    about = next(iter(named.values())).read_json("model.json")
    chosen = _most_boxes(test, count)
    batch = loader_of(test, about).batch(chosen)
    targets = batch.targets or ()
    found: dict[str, Sequence[Any]] = {}
    for title, artifact in named.items():
        outputs = predictor_of(artifact)[1](batch.pixel_values)
        found[title] = [
            detections_of(logits, boxes, about["activation"], target.size)
            for logits, boxes, target in zip(outputs["logits"], outputs["boxes"], targets, strict=True)
        ]
    readable = [i for i in chosen if test.ids[i] in set(batch.ids)]
    images = [test.image(i) for i in readable]
    least = threshold_of(next(iter(found.values())), targets)
    drawn = box_pictures(images, found, targets, least, about["classes"], batch.ids)
    titles = ", ".join([*named, "annotations"])
    captions = [f"{name}: {titles}; scores from {least:.0%}" for name in batch.ids]
    pictures = tuple(Picture(caption=caption, svg=svg) for caption, svg in zip(captions, drawn, strict=True))
    return Pictured(pictures, tuple(count_cautions(found, least)))


def count_cautions(found: Mapping[str, Sequence[Any]], least: float) -> list[str]:
    """A sentence for each artifact that shows clearly fewer or more boxes than the first from the same score on.

    found: title -> `Detections` of each image, the first title being the reference. least: the score, 0 to 1. Clearly:
    LEAST_APART boxes and SHARE_APART of the reference's count. AP, which only ranks, does not see such a shift.
    """
    counts = {title: sum(len(one.above(least)) for one in detections) for title, detections in found.items()}
    if not counts:
        return []
    (first, dense), *others = counts.items()
    images = len(found[first])
    return [
        f"at a score of {100 * least:.0f} % the {first} shows {dense} boxes on the {images} pictured images, "
        f"the {title} {shown}: choose its score threshold anew"
        for title, shown in others
        if abs(shown - dense) >= max(LEAST_APART, SHARE_APART * dense)
    ]


def threshold_of(detections: Sequence[Any], targets: Sequence[Any]) -> float:
    """The score from which boxes are drawn in all panels, in whole percents, at most THRESHOLD.

    Scores of detectors are not comparable from model to model. This one lets the first artifact show as many boxes as
    there are objects in these images; the others are held to the same score. At least 0.01.
    """
    scores = np.sort(np.concatenate([np.zeros(0), *(found.scores for found in detections)]))[::-1]
    objects = sum(len(target.learnable()) for target in targets)
    if not objects or len(scores) < objects:
        return THRESHOLD
    return float(min(THRESHOLD, max(0.01, np.floor(100 * scores[objects - 1]) / 100)))


def _most_boxes(test: Any, count: int) -> list[int]:
    """Indices of the images with most boxes, ascending."""
    sizes = np.array([len(test.boxes(i).learnable()) for i in range(len(test))])
    order = np.argsort(-sizes, kind="stable")[:count]
    return sorted(int(i) for i in order if sizes[i])
