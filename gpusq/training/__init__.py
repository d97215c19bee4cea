"""Training: the loop, the order of the data, checkpoints that resume bit-equal."""

from gpusq.training.checkpoint import Checkpoints
from gpusq.training.loop import Batch, Settings, fit
from gpusq.training.order import batch_indices, share_of, steps_in

__all__ = ["Batch", "Checkpoints", "Settings", "batch_indices", "fit", "share_of", "steps_in"]
