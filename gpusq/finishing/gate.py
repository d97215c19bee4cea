"""Does an engine still give what the host expected? One gate for each task; the bundle names its task."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from numpy.typing import NDArray

from gpusq.engines.bundle import Bundle
from gpusq.errors import ParityError, UsageError

DESCRIPTION = "model.json"
AGREEMENT = {"classification": "top1_agreement", "detection": "boxes_found_by_both", "tensors": "images_alike"}
"""Task -> the name of its share of equal answers."""
Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Gate:
    """What was compared and what came out. figures: name -> value; limits: name -> the bar it was held against.

    n: sample images. passed: whether every figure keeps its limit.
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
    images whose outputs are close (`gpusq.graph.output_parity`). Raises ParityError, NonFiniteError.
    """
    from gpusq.graph.output_parity import compare_outputs

    description = json.loads(bundle.files.get(DESCRIPTION, b"{}")) | {"task": bundle.task}
    parity = compare_outputs(description, expected, found)
    return Gate(
        task=bundle.task,
        n=parity.n,
        figures={"relative_error": parity.relative, AGREEMENT[bundle.task]: parity.top1},
        limits={"relative_error": bundle.tolerance, AGREEMENT[bundle.task]: bundle.agreement},
        passed=parity.relative <= bundle.tolerance and parity.top1 >= bundle.agreement,
    )


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
