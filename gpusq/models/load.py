"""From a specification to a loaded model, and from an artifact's tensors back to the same model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from gpusq.errors import ClassMismatchError, UnsupportedModelError
from gpusq.models.attention import attach_points
from gpusq.models.canonical import canonicalise
from gpusq.models.description import LoadedModel, ModelDescription
from gpusq.models.huggingface import load_directory, skeleton
from gpusq.models.layers import find_blocks, find_keep_dense
from gpusq.models.presets import new_model
from gpusq.models.probe import Classifier, Probe, example_input, probe
from gpusq.models.source import Raw, parse_spec
from gpusq.models.tensors import check_finite, load_tensors, plain_tensors
from gpusq.models.timm_model import load_timm, timm_skeleton
from gpusq.models.user_file import SOURCE_FILE, call_function, load_file

LOADERS = {"hf": load_directory, "new": new_model, "file": load_file, "timm": load_timm}


def load_model(spec: str, *, classes: int | None = None, seed: int = 0) -> LoadedModel:
    """Load an image classifier in canonical form, in eval mode, float32, on the CPU; nothing is downloaded.

    spec: "hf:DIR" (config.json and safetensors), "new:NAME?key=value" (a preset with fresh weights),
    "file.py:function", "timm:NAME". classes: number of classes of a fresh head. seed: of fresh weights.
    Raises UnsupportedModelError, NonFiniteError, ClassMismatchError, MissingExtraError.
    """
    if classes is not None and classes < 1:
        raise ClassMismatchError("a model has at least one class", got=str(classes), do="give a positive number")
    parsed = parse_spec(spec)
    raw = LOADERS[parsed.source](parsed, classes, seed)
    check_finite(raw.module.state_dict())
    architecture = raw.architecture
    module, run = _canonical(raw.module, raw.input_shape)
    description = _describe(raw, architecture, run, classes)
    loaded = _loaded(description, module, run, raw.files)
    if raw.source == "file":
        _check_rebuilds(loaded)
    return loaded


def rebuild(description: ModelDescription, tensors: Mapping[str, Tensor], files: Mapping[str, bytes]) -> LoadedModel:
    """The same model from its description, all its tensors (`plain_tensors`) and its files; bit-equal logits.

    Runs the source.py of a model that came from a file. Raises UnsupportedModelError, MissingExtraError.
    """
    module, run = _canonical(_skeleton(description, files), description.input_shape)
    load_tensors(module, tensors)
    return _loaded(description, module, run, dict(files))


def _skeleton(description: ModelDescription, files: Mapping[str, bytes]) -> nn.Module:
    if description.source == "timm":
        return timm_skeleton(description.config)
    if description.source != "file":
        return skeleton(description.config, description.architecture)
    if SOURCE_FILE not in files or description.function is None:
        raise UnsupportedModelError(
            f"a model from a file is rebuilt from its {SOURCE_FILE}", got="none", do="give the artifact's files"
        )
    arguments = description.config.get("arguments", {})
    return call_function(files[SOURCE_FILE], description.function, arguments, pretrained=False)[0]


def _canonical(raw: nn.Module, input_shape: tuple[int, int, int]) -> tuple[nn.Module, Probe]:
    """The canonical module in eval mode with its attention points, and what one pass through it showed."""
    module = canonicalise(raw).float().eval()
    run = probe(module, input_shape)
    attach_points(list(run.callers))
    return module if run.bare else Classifier(module).eval(), run


def _describe(raw: Raw, architecture: str, run: Probe, classes: int | None) -> ModelDescription:
    width = run.logits.shape[-1]
    names = raw.classes or tuple(str(i) for i in range(width))
    if classes not in (None, width) or len(names) != width:
        raise ClassMismatchError(
            f"the model gives {classes or len(names)} logits, one for each class",
            got=f"{width} logits",
            do="change the model's head or the number of classes",
        )
    try:
        return ModelDescription(
            source=raw.source,
            family=raw.family,
            config=raw.config,
            architecture=architecture,
            input_shape=raw.input_shape,
            mean=raw.mean,
            std=raw.std,
            resize=raw.resize,
            classes=names,
            function=raw.function,
        )
    except ValidationError as error:
        raise UnsupportedModelError(
            "the model's image statistics fit its input", got=str(error), do="mend them"
        ) from error


def _loaded(description: ModelDescription, module: nn.Module, run: Probe, files: dict[str, bytes]) -> LoadedModel:
    return LoadedModel(description, module, find_blocks(module), find_keep_dense(module, run), files)


def _check_rebuilds(loaded: LoadedModel) -> None:
    """Raise UnsupportedModelError where the user's function keeps state outside parameters and buffers."""
    x = example_input(loaded.module, loaded.description.input_shape)
    twin = rebuild(loaded.description, plain_tensors(loaded.module), loaded.files)
    with torch.no_grad():
        same = torch.equal(loaded.module(x), twin.module(x))
    if not same:
        raise UnsupportedModelError(
            f"{loaded.description.function} gives the same model again once its tensors are loaded",
            got="other logits for the same image",
            do="keep all random or trained state in parameters and persistent buffers",
        )
