"""Which task a class of transformers serves, told by the end of its name."""

from __future__ import annotations

from collections.abc import Sequence

from gpusq.models.description import Task

CLASSIFIER_HEAD, DETECTOR_HEAD = "ForImageClassification", "ForObjectDetection"
TENSOR_HEADS = {
    "ForUniversalSegmentation": ("class_queries_logits", "masks_queries_logits"),
    "ForSemanticSegmentation": ("logits",),
    "ForDepthEstimation": ("predicted_depth",),
    "ViTModel": ("last_hidden_state", "pooler_output"),
}
"""End of a class's name -> the outputs of task "tensors"."""
HEADS: dict[Task, tuple[str, ...]] = {
    "classification": (CLASSIFIER_HEAD,),
    "detection": (DETECTOR_HEAD,),
    "tensors": tuple(TENSOR_HEADS),
}


def task_of(architectures: Sequence[str]) -> Task:
    """The task of a transformers model from the class names in its configuration; classification where none tells."""
    if any(DETECTOR_HEAD in name for name in architectures):
        return "detection"
    if any(CLASSIFIER_HEAD in name for name in architectures):
        return "classification"
    return "tensors" if any(head_of(name) for name in architectures) else "classification"


def head_of(architecture: str) -> str:
    """The key of TENSOR_HEADS that a class belongs to, or ""."""
    return next((head for head in TENSOR_HEADS if architecture.endswith(head)), "")
