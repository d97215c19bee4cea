"""What a student learns from a teacher: hard, soft and feature loss, and the sparse-distillation-aware factor."""

from gpusq.distillation.capture import BlockOutputs
from gpusq.distillation.detector_objective import (
    DetectionObjective,
    PairObjective,
    TensorsObjective,
    objective_of,
    supervised_loss,
    tensors_loss,
)
from gpusq.distillation.factor import Factor, weight_factor
from gpusq.distillation.hungarian import Match, detection_loss, match
from gpusq.distillation.losses import Weights, block_losses, distillation_loss, feature_loss, hard_loss, soft_loss
from gpusq.distillation.matched import agreement, match_queries, matched_soft_loss
from gpusq.distillation.objective import Objective

__all__ = [
    "BlockOutputs",
    "DetectionObjective",
    "Factor",
    "Match",
    "Objective",
    "PairObjective",
    "TensorsObjective",
    "Weights",
    "agreement",
    "block_losses",
    "detection_loss",
    "distillation_loss",
    "feature_loss",
    "hard_loss",
    "match",
    "match_queries",
    "matched_soft_loss",
    "objective_of",
    "soft_loss",
    "supervised_loss",
    "tensors_loss",
    "weight_factor",
]
