"""Models of the transformers library: from a local directory, from a configuration, never from the network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from gpusq.detection import used_classes
from gpusq.errors import MissingExtraError, UnsupportedModelError
from gpusq.models.attention import ATTENTION_NAME, register_attention
from gpusq.models.description import Task
from gpusq.models.detector import activation_of
from gpusq.models.heads import HEADS, TENSOR_HEADS, head_of, task_of
from gpusq.models.preprocessing import read_preprocessing
from gpusq.models.source import Raw, Spec, option

FULLY_STORED = ("vit", "deit", "swin", "dinov2")
INTERPOLATING = ("dinov2", "dinov2_with_registers")  # resize their position embeddings in each forward pass


def load_directory(spec: Spec, classes: int | None, seed: int) -> Raw:
    """A vision model from a directory with config.json and model.safetensors: classifier, detector or other.

    classes: where it differs from the trained head, or there is none, a fresh head is made from `seed`. A detector's
    head of which so many outputs have a name, as one for each COCO id, is the trained head that was asked for.
    Raises UnsupportedModelError, also for pickled weights.
    """
    given = option(spec, ("size",))
    folder = Path(spec.name)
    config = _read_config(folder)
    task = task_of(config.architectures or ())
    if task == "detection" and classes is not None and len(used_classes(_class_names(config) or ())) == classes:
        classes = config.num_labels
    if classes not in (None, config.num_labels):
        config.num_labels = classes
    with quiet(), seeded(seed):
        module, fresh = _read_model(folder, config, classes, task)
    image = read_preprocessing(folder, config)
    if given:
        image = image.resized(positive("size", given["size"]))
    if config.model_type in INTERPOLATING and task == "classification":
        fold_positions(module, image.input_shape)
    facts = plain_config(module.config)
    names = _class_names(config)
    raw = Raw(module, "hf", config.model_type, facts, *image.as_tuple(), classes=names, task=task, fresh=fresh)
    if task == "tensors":
        raw.outputs = TENSOR_HEADS[head_of(type(module).__name__)]
    if task == "detection":
        raw.activation = activation_of(config.model_type)
        raw.classes = raw.classes or tuple(str(i) for i in range(config.num_labels))
    return raw


def skeleton(config: dict[str, Any], architecture: str, task: Task = "classification") -> nn.Module:
    """A module of this configuration and class, its weights to be overwritten. Raises UnsupportedModelError."""
    transformers = import_transformers()
    chosen = getattr(transformers, architecture, None)
    if chosen is None or not any(head in architecture for head in HEADS[task]):
        raise UnsupportedModelError(
            "the installed transformers knows this class of model",
            got=architecture,
            do="install the version it came from",
        )
    values = {k: v for k, v in config.items() if k != "model_type"}
    with quiet(), seeded(0), _unfilled(str(config.get("model_type"))):
        return build(chosen, config_class(str(config.get("model_type")))(**values))


def config_class(family: str) -> Any:
    """The transformers configuration class of a model type. Raises UnsupportedModelError."""
    mapping = import_transformers().CONFIG_MAPPING
    if family not in mapping:
        raise UnsupportedModelError("the installed transformers knows this model type", got=family, do="update it")
    return mapping[family]


def plain_config(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON data."""
    data: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return {k: v for k, v in data.items() if k not in ("transformers_version", "_name_or_path")}


def fold_positions(module: nn.Module, input_shape: tuple[int, int, int]) -> None:
    """Store position embeddings already resized to the input, so that no pass resizes them; the same function."""
    _, height, width = input_shape
    part: Any
    for part in module.modules():
        resize = getattr(part, "interpolate_pos_encoding", None)
        if not callable(resize) or not hasattr(part, "position_embeddings") or height != width:
            continue
        patch = part.patch_embeddings.patch_size[0]
        tokens = 1 + (height // patch) * (width // patch)
        hidden = part.position_embeddings.shape[-1]
        with torch.no_grad():
            folded = resize(part.position_embeddings.new_zeros(1, tokens, hidden), height, width)
        part.position_embeddings = nn.Parameter(folded.detach().clone())
        part.patch_embeddings.image_size = (height, width)
        part.patch_embeddings.num_patches = tokens - 1
    config: Any = module.config
    config.image_size = height if height == width else (height, width)


def import_transformers() -> Any:
    """The transformers module. Raises MissingExtraError."""
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("transformers", "host", "loading a model") from error
    return transformers


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no reports from transformers inside the block; errors still raise."""
    logging = import_transformers().utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's CPU random state set to `seed` inside the block and put back after it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _unfilled(family: str) -> AbstractContextManager[None]:
    """Skip the random weights of families whose every tensor is stored: nothing else is set by their initialisation."""
    if family not in FULLY_STORED:
        return nullcontext()
    from transformers.initialization import no_init_weights

    context: AbstractContextManager[None] = no_init_weights()
    return context


def auto_class() -> Any:
    """The transformers class that finds a family's image classifier."""
    return import_transformers().AutoModelForImageClassification


def positive(key: str, value: str) -> int:
    """An option's value as a positive integer. Raises UnsupportedModelError."""
    if not value.isdecimal() or int(value) < 1:
        raise UnsupportedModelError(f"option {key} is a positive integer", got=repr(value), do="give a number")
    return int(value)


def build(chosen: Any, config: Any) -> nn.Module:
    """A module of a class, or of an auto class, from its configuration, with this package's attention, in float32."""
    make = chosen.from_config if hasattr(chosen, "from_config") else chosen._from_config
    module: nn.Module = _with_own_attention(make, config, dtype=torch.float32)
    return module


def _with_own_attention(build: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Build with this package's attention; with the library's explicit one for a family that knows only its own."""
    register_attention()
    try:
        return build(*args, attn_implementation=ATTENTION_NAME, **options)
    except KeyError as error:
        if error.args != (ATTENTION_NAME,):
            raise
        return build(*args, attn_implementation="eager", **options)


def _read_config(folder: Path) -> Any:
    if not (folder / "config.json").is_file():
        raise UnsupportedModelError(f"{folder} holds a model: config.json", got="no such file", do="check the path")
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(p.name for p in folder.glob("*.bin"))
        raise UnsupportedModelError(
            f"{folder} holds model.safetensors",
            got=f"pickled weights {pickled[0]}, which can run code when read" if pickled else "no weights",
            do="convert on a machine that trusts them: load with transformers, then save_pretrained(DIR)",
        )
    try:
        return import_transformers().AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        raise UnsupportedModelError(
            f"{folder}/config.json describes a model of the installed transformers", got=str(error), do="update it"
        ) from error


def _read_model(folder: Path, config: Any, classes: int | None, task: Task) -> tuple[nn.Module, tuple[str, ...]]:
    """The model, and the names of its tensors that the folder does not hold."""
    try:
        module, info = _with_own_attention(
            _model_class(config, task).from_pretrained,
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=classes is not None,
        )
    except (ValueError, OSError, RuntimeError, KeyError, SafetensorError) as error:
        raise UnsupportedModelError(
            f"{folder} holds a vision model of transformers", got=str(error), do="check config.json and weights"
        ) from error
    return module, _fresh_head(folder, module, info, classes, task)


def _class_names(config: Any) -> tuple[str, ...] | None:
    """The names of the classes in order; None where transformers made them up."""
    labels = config.id2label or {}  # some families reset it
    names = tuple(str(labels[i]) for i in sorted(labels))
    return None if names == tuple(f"LABEL_{i}" for i in range(len(names))) else names


def _model_class(config: Any, task: Task) -> Any:
    """The class that config.json names where it has a head of the task, else the family's classifier."""
    config.architectures = config.architectures or []  # None fails in the auto class
    for name in config.architectures:
        if any(head in name for head in HEADS[task]) and hasattr(import_transformers(), name):
            return getattr(import_transformers(), name)
    return auto_class()


def _fresh_head(
    folder: Path, module: nn.Module, info: dict[str, Any], classes: int | None, task: Task
) -> tuple[str, ...]:
    """Names of the fresh tensors. Only a head may be fresh, and only where the user gave the number of classes."""
    fresh = set(info["missing_keys"]) | {name for name, *_ in info["mismatched_keys"]}
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    # A head has a row for each class; a detector's under softmax one more.
    rows = set() if classes is None else {classes, classes + (task == "detection")}
    strays = {name for name in fresh if name not in shapes or not shapes[name] or shapes[name][0] not in rows}
    if strays:
        raise UnsupportedModelError(
            f"{folder} holds all weights of {type(module).__name__}",
            got=f"none for {min(strays)} and {len(strays) - 1} others",
            do="give the number of classes for a fresh head, or a directory with the whole classifier",
        )
    return tuple(sorted(fresh))
