"""How far two forms of one model are apart, on the same inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpusq.errors import NonFiniteError, ParityError

if TYPE_CHECKING:
    from numpy.typing import NDArray


COMPARED = {
    "classification": "images with the same top-1",
    "detection": "boxes",
    "tensors": "images with outputs alike",
}
"""Task -> what `Parity.n` counts and `Parity.top1` is a share of."""


@dataclass(frozen=True)
class Parity:
    """Outputs of two forms of one model; `gpusq.graph.output_parity` says how each task is compared.

    relative: largest |a - b| over the largest |a|. top1: share of equal answers, of n images, or of n boxes of a
    detector. The rest is of detectors, None for other tasks: paired: `relative` is that of queries assigned to each
    other, since their order differs. matched: boxes that both found. mean_iou: their mean overlap, 0 to 1 (0 where
    there are none). score, worst_score: mean and largest difference of their scores. faint: share (0 to 1) of the
    detections found by both among those with low scores; None for few. relative_found: as `relative`, of what both
    found alone.
    """

    max_abs: float
    relative: float
    top1: float
    n: int
    task: str = "classification"
    paired: bool | None = None
    matched: int | None = None
    mean_iou: float | None = None
    score: float | None = None
    worst_score: float | None = None
    faint: float | None = None
    relative_found: float | None = None


def compare(expected: NDArray[Any], found: NDArray[Any]) -> Parity:
    """Compare two arrays of logits [n, classes], n >= 1.

    Raises ParityError for different shapes, NonFiniteError where one holds NaN or infinity.
    """
    if expected.shape != found.shape or expected.ndim != 2 or not expected.size:
        raise ParityError(f"logits of shape [n, classes] like {expected.shape} were expected", got=str(found.shape))
    for name, array in (("expected", expected), ("found", found)):
        if not np.isfinite(array).all():
            raise NonFiniteError(f"parity: the {name} logits must be finite", got=f"{int((~np.isfinite(array)).sum())}")
    a, b = expected.astype(np.float64), found.astype(np.float64)
    largest = float(np.abs(a - b).max())
    scale = float(np.abs(a).max())
    same = float((a.argmax(axis=1) == b.argmax(axis=1)).mean())
    return Parity(largest, largest / scale if scale else largest, same, len(a))


def check_parity(
    parity: Parity,
    *,
    relative: float | None,
    top1: float,
    what: str,
    mean_iou: float = 0.0,
    score: float | None = None,
    faint: float = 0.0,
    keys: Mapping[str, str] | None = None,
) -> None:
    """Raises ParityError where the relative error exceeds `relative` or the agreement is below `top1` (0 to 1).

    Of a detector also where the mean overlap of paired boxes is below `mean_iou` (0 to 1), the mean difference of their
    scores above `score`, or the share of faint boxes found by both below `faint` (0 to 1). None: not judged.
    keys: name of a bar here -> the stage's parameter that sets it ("top1": "export.fp16_agreement"), for the error.
    """
    asked, got = [], []
    if relative is not None and math.isfinite(relative):
        asked.append(f"within {relative:.2g} of the largest value")
        got.append(f"{parity.relative:.2g}")
    if top1 > 0:
        asked.append(f"in {top1:.1%} of {_compared(parity)}")
        got.append(f"{parity.top1:.1%} of {parity.n}")
    if parity.mean_iou is not None and mean_iou > 0:
        asked.append(f"with a mean overlap (IoU) of paired boxes of at least {mean_iou:.2f}")
        got.append(f"{parity.mean_iou:.3f}")
    if parity.score is not None and score is not None:
        asked.append(f"with a mean difference of their scores of at most {score:.2g}")
        got.append(f"{parity.score:.2g}")
    if parity.faint is not None and faint > 0:
        asked.append(f"in {faint:.1%} of the boxes with low scores")
        got.append(f"{parity.faint:.1%}")
    missed = _missed(parity, relative, top1, mean_iou, score, faint)
    if missed:
        named = ", ".join((keys or {}).get(bar, "") for bar in missed).strip(", ")
        raise ParityError(
            f"{what} must agree {', '.join(asked)}",
            got=", ".join(got) + _counted(parity),
            do="compare the layers' outputs; if the difference is accepted, change "
            + (f"{named} (in the recipe or by --set)" if named else "the bar in the recipe"),
        )


def _missed(
    parity: Parity, relative: float | None, top1: float, mean_iou: float, score: float | None, faint: float
) -> list[str]:
    """Names of the bars that were missed."""
    far = relative is not None and parity.relative > relative
    loose = parity.mean_iou is not None and parity.mean_iou < mean_iou
    shifted = parity.score is not None and score is not None and parity.score > score
    fewer = parity.faint is not None and parity.faint < faint
    missed = {"relative": far, "top1": parity.top1 < top1, "mean_iou": loose, "score": shifted, "faint": fewer}
    return [bar for bar, is_missed in missed.items() if is_missed]


def _compared(parity: Parity) -> str:
    return COMPARED.get(parity.task, COMPARED["tensors"])


def _counted(parity: Parity) -> str:
    """What the figures were taken on."""
    if parity.task == "detection":
        return f", on {parity.n} boxes of which {parity.matched} were found by both"
    return f", on {parity.n} images"
