"""Every model family through every step, at a small size: what gpusq covers, shown by doing it."""

from gpusq.zoo.conditions import run_conditions
from gpusq.zoo.families import FAMILIES, Family
from gpusq.zoo.result import STEPS, FamilyResult
from gpusq.zoo.run import Limits, run_zoo
from gpusq.zoo.table import to_json, to_markdown

__all__ = [
    "FAMILIES",
    "STEPS",
    "Family",
    "FamilyResult",
    "Limits",
    "run_conditions",
    "run_zoo",
    "to_json",
    "to_markdown",
]
