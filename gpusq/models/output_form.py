"""The form of what a model gives: its task, its numbers and a detector's boxes, told by a pass over one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gpusq.errors import NonFiniteError, UnsupportedModelError
from gpusq.models.description import Task
from gpusq.models.detector import described, is_pair

BOX_FORM = "boxes [B, Q, 4] as cx, cy, w, h, shares of the image from 0 to 1"
FAR = 3.0
"""Absolute value from which a box is far outside the image."""
STRAY = 0.25
"""Share of the queries that may be far outside or of negative size: fresh heads without a sigmoid have a few such."""
SIZE_ROOM = 1e-3
"""How far below 0 rounding may take a width or height."""


def task_told_by(output: Any) -> Task:
    """The task of a model that names none, from what it gave for one image.

    Raises UnsupportedModelError for several tensors that are no detector's logits and boxes.
    """
    if is_pair(output):
        return "detection"
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    boxes = output.get("boxes") if isinstance(output, Mapping) else getattr(output, "pred_boxes", None)
    if isinstance(output, Tensor) or (isinstance(named, Tensor) and boxes is None):
        return "classification"
    swapped = isinstance(output, (tuple, list)) and len(output) > 1 and is_pair((output[1], output[0]))
    raise UnsupportedModelError(
        "a classifier gives logits [B, classes], a detector (logits [B, Q, K], boxes [B, Q, 4])",
        got=described(output),
        do="swap them: return (logits, boxes)" if swapped else "wrap the model in a module whose forward returns these",
    )


def check_outputs_finite(outputs: Sequence[Tensor], names: Sequence[str]) -> None:
    """Raise NonFiniteError where an output of one image holds NaN or infinity."""
    for index, values in enumerate(outputs):
        count = int((~torch.isfinite(values)).sum()) if values.is_floating_point() else 0
        if count:
            name = names[index] if len(names) == len(outputs) else f"output {index}"
            raise NonFiniteError(
                f"the outputs of a model must be finite: {name} for an image of normal noise in eval mode",
                got=f"{count} of {values.numel()} values NaN or infinite",
                do="mend the forward or the weights; look for a division by 0, a logarithm or root of what is not "
                "positive, and overflow",
            )


def check_box_form(boxes: Tensor) -> None:
    """Raise UnsupportedModelError unless boxes [B, Q, 4] can be BOX_FORM.

    Values beyond FAR are pixels, or no boxes at all; sizes below 0 are corners or numbers before a sigmoid; either in
    more than STRAY of the queries. Corners in 0 to 1 cannot be told from centres.
    """
    sizes = boxes[..., 2:]
    far, negative = boxes.abs().amax(-1) > FAR, sizes.amin(-1) < -SIZE_ROOM
    if float(torch.maximum(far, negative).double().mean()) <= STRAY:
        return
    low, high = float(boxes.min()), float(boxes.max())
    raise UnsupportedModelError(
        f"a detector gives {BOX_FORM}",
        got=f"values from {low:.3g} to {high:.3g}, widths and heights from {float(sizes.min()):.3g} to "
        f"{float(sizes.max()):.3g}, for an image of normal noise",
        do="divide pixels by the image's width and height, turn corners into centre and size, and end the box head in "
        "a sigmoid, inside the forward",
    )
