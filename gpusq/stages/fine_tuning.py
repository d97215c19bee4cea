"""x"""
from __future__ import annotations
from dataclasses import dataclass
from gpusq.stages.stage import Stage, parameter
@dataclass(frozen=True)
class FineTuned(Stage):
    epochs: float = parameter(1.0, "e")
    seed: int = parameter(0, "seed")
    def __post_init__(self) -> None: ...
