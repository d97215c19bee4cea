"""How much top-1 agreement may be asked of two forms of one quantized model.

Rounding is a cliff: an input that lies on the edge of two integers falls to either side by the last bit of a sum, and
the difference grows through the blocks. Some models therefore disagree with themselves when the images change by a
hair. Where the asked agreement is missed, that self-agreement is measured, and the other form must reach it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

    from gpusq.stages.judging import Outputs
    from gpusq.stages.model_files import ModelState

HAIR = 1e-6
"""Relative change of the images for the self-agreement: what float32 sums in another order differ by."""
FLOOR = 0.9
"""No self-agreement excuses less than this."""
FLOOR_IOU, IOU_ROOM = 0.75, 0.05
"""No self-agreement excuses a smaller mean overlap of paired boxes; how much lower than its own a form may be."""
FLOOR_FAINT, FAINT_ROOM = 0.5, 0.1
"""No self-agreement excuses a smaller share of faint boxes; how much lower than its own it may be."""
ERROR_ROOM, ERROR_CEILING = 1.5, 0.2
"""How many times the FP16 file's relative error an engine's may be; no file excuses more than the ceiling."""
CEILING_SCORE, SCORE_ROOM = 0.1, 0.02
"""No self-agreement excuses a larger mean difference of scores; how much larger than its own it may be."""


def self_parity(state: ModelState, batches: Iterable[np.ndarray], expected: Outputs) -> dict[str, Any]:
    """PyTorch beside itself: the `expected` outputs against those of images [B, C, H, W] times 1 + HAIR."""
    from dataclasses import asdict

    import numpy as np

    from gpusq.graph.output_parity import compare_outputs
    from gpusq.stages.judging import joined, run_module

    description = state.loaded.description
    found = [run_module(state.module, description.outputs, x * np.float32(1 + HAIR)) for x in batches]
    return asdict(compare_outputs(description.model_dump(mode="json"), expected, joined(found)))


def allowed_agreement(asked: float, own: dict[str, Any] | None, n: int) -> float:
    """Least agreement (0 to 1) on n images: `asked`, or the self-agreement less two standard errors, if that is lower.

    own: what `self_parity` gave, None where the asked agreement was reached and nothing was measured. A model that
    agrees with itself throughout excuses nothing.
    """
    if own is None or own["top1"] >= 1:
        return asked
    share = min(max(float(own["top1"]), 0.0), 1.0)
    error = math.sqrt(max(share * (1 - share), 1 / n) / n)
    return min(asked, max(FLOOR, share - 2 * error))


def allowed_error(asked: float, half: dict[str, Any]) -> float:
    """Largest relative error that a device may show: `asked`, or ERROR_ROOM times that of the FP16 file on the host.

    half: `Parity` of that file as data. Rounding in a quantized model falls otherwise in FP16, on a device as here.
    """
    found = half.get("relative_found")
    own = float(half["relative"] if found is None else found)
    return max(asked, min(ERROR_CEILING, ERROR_ROOM * own))


def box_bars(
    agreement: float, mean_iou: float, score: float, faint: float, own: dict[str, Any] | None
) -> dict[str, Any]:
    """The bars of a detector's paired boxes, as `check_parity` takes them; an asked `agreement` of 0 judges no boxes.

    mean_iou (0 to 1), score, faint (0 to 1): what is asked. own: what `self_parity` gave, or None; a detector whose own
    boxes and scores move by a hair of the images may be as far off as that and a little more, within FLOOR_IOU,
    CEILING_SCORE and FLOOR_FAINT.
    """
    if agreement <= 0:
        return {"mean_iou": 0.0, "score": None, "faint": 0.0}
    if own is not None and own.get("mean_iou") is not None:
        mean_iou = min(mean_iou, max(FLOOR_IOU, float(own["mean_iou"]) - IOU_ROOM))
        score = max(score, min(CEILING_SCORE, float(own["score"]) + SCORE_ROOM))
    if own is not None and own.get("faint") is not None:
        faint = min(faint, max(FLOOR_FAINT, float(own["faint"]) - FAINT_ROOM))
    return {"mean_iou": mean_iou, "score": score, "faint": faint}


def misses(parity: dict[str, Any], agreement: float, bars: dict[str, Any]) -> bool:
    """Whether a `Parity` as data falls short of the asked agreement or of the bars of its boxes."""
    overlap, score = parity.get("mean_iou"), parity.get("score")
    loose = overlap is not None and overlap < bars["mean_iou"]
    shifted = score is not None and bars["score"] is not None and score > bars["score"]
    faint = parity.get("faint")
    fewer = faint is not None and faint < bars["faint"]
    return bool(parity["top1"] < agreement or loose or shifted or fewer)


def relaxed_note(report: dict[str, Any]) -> str:
    """What a reader must know of an export.json whose asked agreement was missed; empty where it was reached."""
    own = report.get("parity_self")
    if own is None:
        return ""
    fp32, fp16 = report["parity_fp32"], report["parity_fp16"]
    return (
        f"ONNX Runtime and PyTorch agree on {_shares(fp32)} in float32 and on {_shares(fp16)} in FP16, one of them "
        f"less than asked; PyTorch agrees with itself on {_shares(own)} when the images change by one part in a "
        "million (rounding in this quantized model lies on edges), and the files are held to that"
    )


def _shares(parity: dict[str, Any]) -> str:
    """ "97.0% of 2000 images"; of a detector its boxes, with their mean overlap."""
    overlap = parity.get("mean_iou")
    if overlap is None:
        return f"{parity['top1']:.1%} of {parity['n']} images"
    return f"{parity['top1']:.1%} of {parity['n']} boxes (mean overlap {overlap:.2f})"
