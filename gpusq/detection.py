"""What rooms that do not know each other must agree on about detectors."""

from __future__ import annotations

from collections.abc import Sequence

CONFIDENT = 0.3
"""Score from which a detection counts when two models, or a model and its engine, are compared."""
FAINT = 0.05
"""Score from which a detection that is not CONFIDENT is compared too, by a share of its own: it still counts in AP."""
UNUSED = ("", "n/a", "unused", "background", "__background__")
"""Names of outputs that stand for no class, in small letters. COCO's ids have gaps; heads numbered by them "N/A"."""


def used_classes(classes_of_model: Sequence[str]) -> dict[str, int]:
    """Name -> output of the classes that a head can find: without UNUSED, "LABEL_7" and "7" at output 7."""
    names = enumerate(classes_of_model)
    return {name: i for i, name in names if name.lower() not in (*UNUSED, f"label_{i}", str(i))}
