"""What a student learns from a teacher: hard, soft and feature loss, and the sparse-distillation-aware factor."""

from gpusq.distillation.capture import BlockOutputs
from gpusq.distillation.factor import Factor, weight_factor
from gpusq.distillation.losses import Weights, block_losses, distillation_loss, feature_loss, hard_loss, soft_loss
from gpusq.distillation.objective import Objective

__all__ = [
    "BlockOutputs",
    "Factor",
    "Objective",
    "Weights",
    "block_losses",
    "distillation_loss",
    "feature_loss",
    "hard_loss",
    "soft_loss",
    "weight_factor",
]
