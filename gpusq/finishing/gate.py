"""Does an engine still give what the host expected? One gate for each task; the bundle names its task."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from numpy.typing import NDArray

from gpusq.engines.bundle import BOX_LIMITS, Bundle
from gpusq.errors import ParityError, UsageError

DESCRIPTION = "model.json"
AGREEMENT = {"classification": "top1_agreement", "detection": "boxes_found_by_both", "tensors": "images_alike"}
"""Task -> the name of its share of equal answers."""
LEAST_IOU, MOST_SCORE, LEAST_FAINT = 0.85, 0.1, 0.75
"""The bars of a bundle that does not name them: mean overlap of paired boxes, mean difference of their scores, share of
the boxes with low scores that both find."""
Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Gate:
    """What was compared and what came out. figures: name -> value; limits: name -> the bar it was held against.

    n: sample images. passed: whether every figure keeps its limit: errors and differences at most, shares at least.
    """

    task: str
    n: int
    figures: dict[str, float]
    limits: dict[str, float]
    passed: bool

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


Judge = Callable[[Bundle, Outputs, Outputs], Gate]
"""(bundle, expected outputs, found outputs) -> Gate."""


def outputs_gate(bundle: Bundle, expected: Outputs, found: Outputs) -> Gate:
    """All outputs within the bundle's tolerance of the largest value, and its share of equal answers.

    Equal answers: of a classifier the top-1 classes, of a detector the boxes that both find, of any other head the
    images whose outputs are close (`gpusq.graph.output_parity`). The paired boxes of a detector must also overlap, and
    their scores agree, as the bundle asks (BOX_LIMITS); its relative error is that of the detections that both found,
    what is not found being judged by the shares. Raises ParityError, NonFiniteError.
    """
    from gpusq.graph.output_parity import compare_outputs

    description = json.loads(bundle.files.get(DESCRIPTION, b"{}")) | {"task": bundle.task}
    parity = compare_outputs(description, expected, found)
    share = AGREEMENT[bundle.task]
    error = parity.relative if parity.relative_found is None else parity.relative_found
    most: dict[str, tuple[float, float]] = {"relative_error": (error, bundle.tolerance)}
    least: dict[str, tuple[float, float]] = {share: (parity.top1, bundle.agreement)}
    if parity.mean_iou is not None and parity.score is not None:
        overlap, score, faint = _box_limits(bundle)
        least["mean_iou"] = (parity.mean_iou, overlap)
        least |= {} if parity.faint is None else {"faint_boxes_found_by_both": (parity.faint, faint)}
        most |= {} if score is None else {"score_difference": (parity.score, score)}
    pairs = most | least
    return Gate(
        task=bundle.task,
        n=len(next(iter(expected.values()))),
        figures={name: figure for name, (figure, _) in pairs.items()},
        limits={name: limit for name, (_, limit) in pairs.items()},
        passed=all(f <= limit for f, limit in most.values()) and all(f >= limit for f, limit in least.values()),
    )


def _box_limits(bundle: Bundle) -> tuple[float, float | None, float]:
    """(least mean overlap, most mean score difference or None) of paired boxes, least share of faint ones."""
    given = json.loads(bundle.files.get(BOX_LIMITS, b"{}"))
    score = given.get("score", MOST_SCORE)
    overlap, faint = float(given.get("mean_iou", LEAST_IOU)), float(given.get("faint", LEAST_FAINT))
    return overlap, None if score is None else float(score), faint


GATES: dict[str, Judge] = dict.fromkeys(AGREEMENT, outputs_gate)
"""Task of the bundle -> its gate."""


def gate_of(task: str) -> Judge:
    """The gate of a task. Raises UsageError for a task that this gpusq has none for."""
    if task not in GATES:
        raise UsageError(
            f"a bundle's task is one of {', '.join(sorted(GATES))}",
            got=task,
            do="finish it with the gpusq that wrote it",
        )
    return GATES[task]


def check_gate(gate: Gate, name: str) -> None:
    """Raise ParityError where a figure misses its limit."""
    if not gate.passed:
        raise ParityError(
            f"the engine of {name} must give the outputs that the bundle expects: {_listed(gate.limits)}",
            got=f"{_listed(gate.figures)} on {gate.n} samples",
            do="do not use this engine; compare TensorRT's version with the known faults (gpusq doctor)",
        )


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())
