"""How much top-1 agreement may be asked of two forms of one quantized model.

Rounding is a cliff: an input that lies on the edge of two integers falls to either side by the last bit of a sum, and
the difference grows through the blocks. Some models therefore disagree with themselves when the images change by a
hair. Where the asked agreement is missed, that self-agreement is measured, and the other form must reach it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from gpusq.stages.model_files import ModelState

HAIR = 1e-4
"""Relative change of the images for the self-agreement: a tenth of the smallest step of an 8-bit pixel, or less."""
FLOOR = 0.8
"""No self-agreement excuses less than this."""
SELF_BATCH = 50


def self_parity(state: ModelState, images: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    """PyTorch beside itself: `expected` logits [n, classes] against those of images [n, C, H, W] times 1 + HAIR."""
    from dataclasses import asdict

    import numpy as np
    import torch

    from gpusq.graph.parity import compare

    found = []
    with torch.inference_mode():
        for start in range(0, len(images), SELF_BATCH):
            part = images[start : start + SELF_BATCH] * np.float32(1 + HAIR)
            found.append(state.module(torch.from_numpy(part)).numpy())
    return asdict(compare(expected, np.concatenate(found)))


def allowed_agreement(asked: float, own: dict[str, Any] | None, n: int) -> float:
    """Least agreement (0 to 1) on n images: `asked`, or the self-agreement less two standard errors, if that is lower.

    own: what `self_parity` gave, None where the asked agreement was reached and nothing was measured.
    """
    if own is None:
        return asked
    share = min(max(float(own["top1"]), 0.0), 1.0)
    error = math.sqrt(max(share * (1 - share), 1 / n) / n)
    return max(FLOOR, min(asked, share - 2 * error))
