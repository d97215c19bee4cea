"""What a model is, in plain data, and the loaded model itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator
from torch import nn

Source = Literal["hf", "new", "file", "timm"]
Resize = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Task = Literal["classification", "detection", "tensors"]
Activation = Literal["softmax", "sigmoid"]
DETECTION_OUTPUTS = ("logits", "boxes")


class ModelDescription(BaseModel):
    """Everything beside the tensors that `rebuild` needs, and how images are prepared for the model.

    family: "vit", "deit", "swin", "dinov2", another transformers model type, or "custom".
    config: what the source builds the skeleton from (a transformers config, a timm name, arguments of the function).
    architecture: class of the module. input_shape: (channels, height, width).
    mean, std: one per channel, for pixels in 0..1. classes: names in the order of the logits (none for task "tensors").
    function: name in source.py, for source "file".
    task: what the outputs are; "tensors" is any head that is neither a classifier nor a detector.
    outputs: names of the outputs, in order. activation: of a detector's logits; under softmax the last column of the
    K + 1 is "no object", under sigmoid there are K. queries: a detector's Q, 0 for other tasks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Source
    family: str
    config: dict[str, Any]
    architecture: str
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Resize = "bilinear"
    classes: tuple[str, ...]
    function: str | None = None
    task: Task = "classification"
    outputs: tuple[str, ...] = ("logits",)
    activation: Activation = "softmax"
    queries: int = 0

    @model_validator(mode="after")
    def _one_statistic_per_channel(self) -> ModelDescription:
        channels = self.input_shape[0]
        if len(self.mean) != channels or len(self.std) != channels or min(self.std) <= 0:
            raise ValueError(f"mean and std hold one value for each of {channels} channels, std above 0")
        return self


@dataclass
class LoadedModel:
    """A model in canonical form, in eval mode.

    module: forward(pixel_values [B, C, H, W] float32) -> logits [B, classes]; of a detector (logits [B, Q, K'],
    boxes [B, Q, 4] as cx, cy, w, h in 0..1), in training mode with a third value where it has auxiliary outputs: more
    such pairs; of task "tensors" a tuple of tensors.
    blocks: names of the transformer blocks, in order of depth. keep_dense: layer name -> reason.
    files: what must travel with the tensors to rebuild the model ("source.py"). fresh: names of tensors of a trained
    model's head that were made anew, because it was asked for another number of classes or had none.
    """

    description: ModelDescription
    module: nn.Module
    blocks: tuple[str, ...]
    keep_dense: dict[str, str]
    files: dict[str, bytes] = field(default_factory=dict)
    fresh: tuple[str, ...] = ()
