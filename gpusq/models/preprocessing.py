"""How images are prepared for a transformers model, read from preprocessor_config.json where there is one."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpusq.errors import UnsupportedModelError
from gpusq.models.description import Resize
from gpusq.models.source import IMAGENET_MEAN, IMAGENET_STD

FILE_NAME = "preprocessor_config.json"
RESAMPLE: dict[int, Resize] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
DEFAULT_SIZE = 224


@dataclass(frozen=True)
class ImageForm:
    """input_shape (C, H, W); mean and std per channel for pixels in 0..1."""

    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Resize

    def as_tuple(self) -> tuple[tuple[int, int, int], tuple[float, ...], tuple[float, ...], Resize]:
        """The fields in order."""
        return self.input_shape, self.mean, self.std, self.resize

    def resized(self, side: int) -> ImageForm:
        """The same for square images of another size."""
        return replace(self, input_shape=(self.input_shape[0], side, side))


def read_preprocessing(folder: Path, config: Any) -> ImageForm:
    """The input form of a model directory. Raises UnsupportedModelError where the file does not parse.

    The size is the configuration's image_size, which the weights were trained for; for models that resize their
    position embeddings to the input, and where the configuration has none, it is the preprocessor's.
    """
    from gpusq.models.huggingface import INTERPOLATING

    prepared = _read(folder / FILE_NAME)
    channels = int(getattr(config, "num_channels", 3) or 3)
    own, given = _pair(getattr(config, "image_size", None)), _pair(prepared.get("crop_size") or prepared.get("size"))
    first, second = (given, own) if config.model_type in INTERPOLATING else (own, given)
    height, width = first or second or (DEFAULT_SIZE, DEFAULT_SIZE)
    mean, std = _statistics(prepared, channels, config.model_type)
    resize = RESAMPLE.get(prepared.get("resample", 2), "bilinear")
    return ImageForm((channels, height, width), mean, std, resize)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnsupportedModelError(f"{path} is JSON", got=str(error), do="mend or remove it") from error
    return data if isinstance(data, dict) else {}


def _pair(size: Any) -> tuple[int, int] | None:
    """(height, width) from an int, a pair or one of transformers' size dictionaries."""
    if isinstance(size, dict):
        if "height" in size:
            return int(size["height"]), int(size["width"])
        size = size.get("shortest_edge")
    if isinstance(size, (list, tuple)):
        return int(size[0]), int(size[-1])
    return (int(size), int(size)) if size else None


def _statistics(prepared: dict[str, Any], channels: int, family: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if prepared.get("do_normalize") is False:
        return (0.0,) * channels, (1.0,) * channels
    mean, std = prepared.get("image_mean"), prepared.get("image_std")
    if mean and std:
        return _per_channel(mean, channels), _per_channel(std, channels)
    if channels != 3 or family == "vit":
        return (0.5,) * channels, (0.5,) * channels
    return IMAGENET_MEAN, IMAGENET_STD


def _per_channel(values: Any, channels: int) -> tuple[float, ...]:
    if isinstance(values, (int, float)):
        return (float(values),) * channels
    return tuple(float(v) for v in (values * channels if len(values) == 1 else values))
