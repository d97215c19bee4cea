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

    own: what `self_parity` gave, None where the asked agreement was reached and nothing was measured.
    """
    if own is None:
        return asked
    share = min(max(float(own["top1"]), 0.0), 1.0)
    error = math.sqrt(max(share * (1 - share), 1 / n) / n)
    return min(asked, max(FLOOR, share - 2 * error))


def relaxed_note(report: dict[str, Any]) -> str:
    """What a reader must know of an export.json whose asked agreement was missed; empty where it was reached."""
    own = report.get("parity_self")
    if own is None:
        return ""
    fp32 = report["parity_fp32"]
    return (
        f"ONNX Runtime and PyTorch agree on {fp32['top1']:.1%} of {fp32['n']} images, less than asked; it was accepted "
        f"because PyTorch agrees with itself on {own['top1']:.1%} of them when they change by one part in a million "
        "(rounding in this quantized model lies on edges)"
    )
