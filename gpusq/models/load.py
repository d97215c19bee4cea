"""From a specification to a loaded model, and from an artifact's tensors back to the same model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gpusq.errors import ClassMismatchError, UnsupportedModelError
from gpusq.models.attention import attach_points
from gpusq.models.canonical import canonicalise, packed_layers
from gpusq.models.class_count import check_count
from gpusq.models.description import DETECTION_OUTPUTS, Activation, LoadedModel, ModelDescription
from gpusq.models.detector import Detector, TensorOutputs
from gpusq.models.fixed_form import fix_form
from gpusq.models.huggingface import load_directory, skeleton
from gpusq.models.layers import (
    NEVER_RUN_REASON,
    PACKED_REASON,
    find_attention_blocks,
    find_blocks,
    find_detector_dense,
    find_idle,
    find_keep_dense,
    find_output_dense,
    find_own_forward,
)
from gpusq.models.output_form import check_box_form, check_outputs_finite, task_told_by
from gpusq.models.presets import new_model
from gpusq.models.probe import Classifier, Probe, evaluating, example_input, outputs_of, probe, run_forward
from gpusq.models.source import Raw, parse_spec
from gpusq.models.tensors import check_finite, load_tensors, plain_tensors
from gpusq.models.timm_model import load_timm, timm_skeleton
from gpusq.models.trace import trace_layers
from gpusq.models.unchanged import check_unchanged
from gpusq.models.user_file import SOURCE_FILE, call_function, load_file
from gpusq.models.vit_detr import VitDetr, VitDetrConfig

LOADERS = {"hf": load_directory, "new": new_model, "file": load_file, "timm": load_timm}


def load_model(spec: str, *, classes: int | None = None, seed: int = 0, asked: Sequence[str] = ()) -> LoadedModel:
    """Load a classifier, a detector or another vision model in canonical form, in eval mode, float32, on the CPU.

    Nothing is downloaded.
    spec: "hf:DIR" (config.json and safetensors), "new:NAME?key=value" (a preset with fresh weights),
    "file.py:function", "timm:NAME". classes: number of classes of a fresh head. seed: of fresh weights.
    asked: names of the classes asked for, where they are known, for what an error says.
    Raises UnsupportedModelError, NonFiniteError, ClassMismatchError, MissingExtraError.
    """
    if classes is not None and classes < 1:
        raise ClassMismatchError("a model has at least one class", got=str(classes), do="give a positive number")
    parsed = parse_spec(spec)
    raw = LOADERS[parsed.source](parsed, classes, seed)
    check_finite(raw.module.state_dict())
    architecture = raw.architecture
    before = _outputs_before(raw)
    module, run = _canonical(raw.module, raw)
    _check_outputs(before, module, run, raw)
    description = _describe(raw, architecture, run, classes, asked)
    loaded = _loaded(description, module, run, raw.files)
    loaded.fresh = raw.fresh
    if raw.source == "file":
        _check_rebuilds(loaded)
    return loaded


def rebuild(description: ModelDescription, tensors: Mapping[str, Tensor], files: Mapping[str, bytes]) -> LoadedModel:
    """The same model from its description, all its tensors (`plain_tensors`) and its files; bit-equal logits.

    Runs the source.py of a model that came from a file. Raises UnsupportedModelError, MissingExtraError.
    """
    module, run = _canonical(_skeleton(description, files), description)
    load_tensors(module, tensors)
    return _loaded(description, module, run, dict(files))


def _skeleton(description: ModelDescription, files: Mapping[str, bytes]) -> nn.Module:
    if description.source == "timm":
        return timm_skeleton(description.config)
    if description.source != "file":
        if description.architecture == VitDetr.__name__:
            return VitDetr(VitDetrConfig(**description.config))
        return skeleton(description.config, description.architecture, description.task)
    if SOURCE_FILE not in files or description.function is None:
        raise UnsupportedModelError(
            f"a model from a file is rebuilt from its {SOURCE_FILE}", got="none", do="give the artifact's files"
        )
    arguments = description.config.get("arguments", {})
    return call_function(files[SOURCE_FILE], description.function, arguments, pretrained=False)[0]


def _canonical(raw: nn.Module, form: Raw | ModelDescription) -> tuple[nn.Module, Probe]:
    """The canonical module in eval mode with its attention points, and what one pass through it showed."""
    module = canonicalise(raw).float().eval()
    if form.task != "classification":
        module = _wrapped(module, form).eval()
    run = probe(module, form.input_shape, form.task or "classification")
    attach_points(list(run.callers))
    return module if run.bare else Classifier(module).eval(), run


def _wrapped(module: nn.Module, form: Raw | ModelDescription) -> nn.Module:
    """A detector, or a model of task "tensors", that gives a tuple of tensors."""
    if form.task == "tensors":
        return TensorOutputs(module, form.outputs)
    if form.source == "hf" or (form.source == "new" and not isinstance(module, VitDetr)):
        return Detector(fix_form(module, form.input_shape), form.family)
    return module if isinstance(module, VitDetr) else Detector(module)


def _outputs_before(raw: Raw) -> list[tuple[Tensor, ...]]:
    """What the model gives in float32 for one image or two, before anything in it is replaced; settles its task.

    Two where rounding may decide what is chosen: which queries a detector keeps, what a mask hides.
    Raises UnsupportedModelError, NonFiniteError where it is not of the form that a task asks for (`output_form`).
    """
    raw.module.float()
    given = _pass(raw.module, raw, 0)
    raw.task = raw.task or task_told_by(given)
    more = [] if raw.task == "classification" else [_pass(raw.module, raw, 1)]
    found = [outputs_of(output, raw.task, raw.outputs) for output in (given, *more)]
    names = {"tensors": raw.outputs, "detection": DETECTION_OUTPUTS}.get(raw.task, ("logits",))
    for outputs in found:
        check_outputs_finite(outputs, names)
        if raw.task == "detection":
            check_box_form(outputs[1])
    return found


def _check_outputs(before: list[tuple[Tensor, ...]], module: nn.Module, run: Probe, raw: Raw) -> None:
    """Raise UnsupportedModelError where the canonical module gives other outputs, for each of the images."""
    task = raw.task or "classification"
    try:
        check_unchanged(before[0], run.outputs, task)
    except UnsupportedModelError:
        if len(before) == 1:
            raise
        check_unchanged(before[1], outputs_of(_pass(module, raw, 1), task, raw.outputs), task)


def _pass(module: nn.Module, raw: Raw, seed: int) -> Any:
    """What a module gives for the image of this seed in eval mode."""
    with evaluating(module), torch.no_grad():
        return run_forward(module, example_input(module, raw.input_shape, seed))


def _describe(
    raw: Raw, architecture: str, run: Probe, classes: int | None, asked: Sequence[str] = ()
) -> ModelDescription:
    task = raw.task or "classification"
    activation, width = _classes_of(raw, run)
    names = raw.classes or tuple(str(i) for i in range(width))
    if task != "tensors":
        check_count(raw, run.logits.shape[-1], width, classes, asked)
    outputs = {"classification": ("logits",), "detection": DETECTION_OUTPUTS, "tensors": _output_names(raw, run)}
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
            classes=() if task == "tensors" else names,
            function=raw.function,
            task=task,
            outputs=outputs[task],
            activation=activation,
            queries=run.logits.shape[1] if task == "detection" else 0,
        )
    except ValidationError as error:
        raise UnsupportedModelError(
            "the model's image statistics fit its input", got=str(error), do="mend them"
        ) from error


def _classes_of(raw: Raw, run: Probe) -> tuple[Activation, int]:
    """(activation, number of classes), from the model's own facts: how many classes the images have tells neither.

    Raises UnsupportedModelError where a detector names neither, or a number of classes that fits neither.
    """
    width = run.logits.shape[-1]
    if raw.task != "detection":
        return "softmax", width
    known = None if raw.classes is None else len(raw.classes)
    if raw.activation is None and known not in (width, width - 1):
        named = "neither in its facts" if known is None else f"{known} classes in its facts"
        raise UnsupportedModelError(
            "a detector's facts tell its activation, or its classes: as many as logits are sigmoid, one less softmax "
            "(the last column is no object)",
            got=f"{width} logits for each query and {named}",
            do='add "activation": "sigmoid" or "softmax" to the facts, and "classes": names; '
            'return (module, {"input_shape": ..., "activation": ..., "classes": ...})',
        )
    activation = raw.activation or ("sigmoid" if known == width else "softmax")
    return activation, width - (activation == "softmax")


def _output_names(raw: Raw, run: Probe) -> tuple[str, ...]:
    """The names given, or output_0, output_1, ... where there are not as many."""
    count = len(run.outputs)
    return raw.outputs if len(raw.outputs) == count else tuple(f"output_{i}" for i in range(count))


def _loaded(description: ModelDescription, module: nn.Module, run: Probe, files: dict[str, bytes]) -> LoadedModel:
    if description.task == "classification":
        blocks, dense = find_blocks(module), find_keep_dense(module, run)
    else:
        blocks = find_attention_blocks(module)
        find_heads = find_detector_dense if description.task == "detection" else find_output_dense
        dense = find_heads(module, run, blocks)
        dense |= find_idle(module, run, *trace_layers(module, description.input_shape))
    dense = find_own_forward(module) | dense
    dense |= {name: PACKED_REASON for name in packed_layers(module) if dense.get(name) == NEVER_RUN_REASON}
    return LoadedModel(description, module, blocks, dense, files)


def _check_rebuilds(loaded: LoadedModel) -> None:
    """Raise UnsupportedModelError where the user's function keeps state outside parameters and buffers."""
    x = example_input(loaded.module, loaded.description.input_shape)
    twin = rebuild(loaded.description, plain_tensors(loaded.module), loaded.files)
    with torch.no_grad():
        mine, theirs = tree_leaves(loaded.module(x)), tree_leaves(twin.module(x))
        same = all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    if not same:
        raise UnsupportedModelError(
            f"{loaded.description.function} gives the same model again once its tensors are loaded",
            got="other logits for the same image",
            do="keep all random or trained state in parameters and persistent buffers",
        )
