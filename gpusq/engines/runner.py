"""What every engine on this host can do: take a batch of images, give its outputs by name."""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpusq.errors import EngineError

Float32 = NDArray[np.float32]
LOGITS = "logits"


class Runner(Protocol):
    """A loaded engine. `name` says which runtime, for the report."""

    name: str

    def outputs(self, pixel_values: Float32) -> dict[str, Float32]:
        """pixel_values [B, C, H, W] float32 -> {output name: [B, ...]}, fresh arrays in the model's order.

        Raises EngineError for another input.
        """
        ...

    def run(self, pixel_values: Float32) -> Float32:
        """The logits alone, of a classifier [B, classes], of a detector [B, Q, K']; the first output where none is."""
        ...


def check_batch(pixel_values: Float32, shape: tuple[int, ...], engine: str, size: int | None = None) -> Float32:
    """The batch, contiguous. shape: (C, H, W) of the model; size: the one batch size it takes, None for any.

    Raises EngineError for another shape or type.
    """
    if pixel_values.dtype != np.float32 or pixel_values.ndim != 4 or pixel_values.shape[1:] != shape:
        raise EngineError(
            f"{engine}: a float32 batch of shape [B, {', '.join(map(str, shape))}] was expected",
            got=f"{pixel_values.dtype} {list(pixel_values.shape)}",
            do="preprocess the images as the model's description says",
        )
    if not len(pixel_values):
        raise EngineError(f"{engine}: at least one image was expected", got="an empty batch")
    if size not in (None, len(pixel_values)):
        raise EngineError(
            f"{engine}: a batch of {size} was expected, the one size that the model was exported for",
            got=str(len(pixel_values)),
            do=f"give {size} images at a time, or export the model with a dynamic batch",
        )
    return np.ascontiguousarray(pixel_values)


def main_output(outputs: dict[str, Float32]) -> Float32:
    """The logits; of a model that gives none, its first output."""
    return outputs[LOGITS] if LOGITS in outputs else next(iter(outputs.values()))


def no_engine(directory: object, file: str, cause: BaseException | None = None) -> EngineError:
    """The refusal of a directory that holds no loadable engine."""
    return EngineError(
        f"{directory} must hold a loadable {file}",
        got=str(cause).splitlines()[0] if cause and str(cause) else "",
        do="build the engine again: gpusq build",
    )


def cpu_threads() -> int:
    """Threads of a CPU engine: the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
