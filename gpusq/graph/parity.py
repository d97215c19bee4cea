"""How far two forms of one model are apart, on the same inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpusq.errors import NonFiniteError, ParityError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Parity:
    """Logits [n, classes] of two forms. relative: largest |a - b| over the largest |a|; top1: share of equal argmax."""

    max_abs: float
    relative: float
    top1: float
    n: int


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


def check_parity(parity: Parity, *, relative: float, top1: float, what: str) -> None:
    """Raises ParityError where the relative error exceeds `relative` or the agreement is below `top1` (0 to 1)."""
    if parity.relative > relative or parity.top1 < top1:
        raise ParityError(
            f"{what} must agree within {relative:.2g} of the largest logit and in {top1:.1%} of top-1",
            got=f"{parity.relative:.2g} and {parity.top1:.1%} on {parity.n} inputs",
            do="compare the layers' outputs; if the difference is accepted, raise the tolerance in the recipe",
        )
