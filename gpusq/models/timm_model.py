"""Models of the timm library, where it is installed: `timm:NAME?weights=FILE.safetensors`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from gpusq.errors import MissingExtraError, UnsupportedModelError
from gpusq.models.description import Resize
from gpusq.models.huggingface import seeded
from gpusq.models.source import Raw, Spec, option
from gpusq.models.tensors import load_tensors

RESIZES: dict[str, Resize] = {"bilinear": "bilinear", "bicubic": "bicubic", "nearest": "nearest", "lanczos": "lanczos"}


def load_timm(spec: Spec, classes: int | None, seed: int) -> Raw:
    """A timm model with fresh weights, or those of a local safetensors file. Nothing is downloaded.

    Raises MissingExtraError, UnsupportedModelError.
    """
    weights = option(spec, ("weights",)).get("weights")
    config: dict[str, Any] = {"name": spec.name} | ({} if classes is None else {"num_classes": classes})
    with seeded(seed):
        module = timm_skeleton(config)
    if weights is not None:
        load_tensors(module, _read(Path(weights)))
    data = _import_timm().data.resolve_model_data_config(module)
    channels, height, width = data["input_size"]
    resize = RESIZES.get(str(data.get("interpolation")), "bilinear")
    shape = (int(channels), int(height), int(width))
    return Raw(module, "timm", spec.name, config, shape, tuple(data["mean"]), tuple(data["std"]), resize)


def timm_skeleton(config: dict[str, Any]) -> nn.Module:
    """A timm model with fresh weights from {"name", "num_classes"}."""
    timm = _import_timm()
    arguments = {k: v for k, v in config.items() if k != "name"}
    try:
        module: nn.Module = timm.create_model(config["name"], pretrained=False, **arguments)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UnsupportedModelError(
            "timm:NAME names a model of the installed timm", got=str(error), do="see timm.list_models()"
        ) from error
    return module


def _read(path: Path) -> dict[str, Any]:
    if path.suffix != ".safetensors" or not path.is_file():
        raise UnsupportedModelError(
            "weights=FILE names a .safetensors file", got=str(path), do="convert the weights or check the path"
        )
    return load_file(path)


def _import_timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise MissingExtraError("timm", "timm", "a timm model") from error
    return timm
