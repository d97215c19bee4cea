"""The stages: each a frozen dataclass whose fields are its parameters. Importing them needs no torch."""

from gpusq.stages.build import Build
from gpusq.stages.export import Export
from gpusq.stages.intake import Intake
from gpusq.stages.prune import Prune
from gpusq.stages.qat import Qat
from gpusq.stages.sensitivity import Sensitivity
from gpusq.stages.train import Train

__all__ = ["Build", "Export", "Intake", "Prune", "Qat", "Sensitivity", "Train"]
