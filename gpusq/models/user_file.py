"""Models from a user's own Python file: `file.py:function`."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from torch import nn

from gpusq.errors import UnsupportedModelError
from gpusq.models.description import Activation, Task
from gpusq.models.huggingface import seeded
from gpusq.models.source import Raw, Spec

SOURCE_FILE = "source.py"
FACTS = ("input_shape", "mean", "std", "classes", "task", "activation", "outputs")


def load_file(spec: Spec, classes: int | None, seed: int) -> Raw:
    """Call a function of a Python file.

    It returns an nn.Module with an attribute `input_shape`, or (module, {"input_shape": (C, H, W), "mean", "std",
    "classes": names or number, "task", "activation", "outputs"}). A detector is known by its outputs; its facts name
    its activation, or its classes: as many as it has logits are sigmoid, one less softmax. Where the function takes an
    argument `pretrained` it is given True here and False when the artifact is rebuilt; where it takes `classes` or
    `num_classes` it is given the number asked for. The file stands alone: it may import installed packages, not its
    neighbours. Weights that it reads from another folder it names in `reads()` (see `files_read`).
    Raises UnsupportedModelError.
    """
    path = Path(spec.name)
    if not path.is_file():
        raise UnsupportedModelError(f"{path} is a Python file", got="no such file", do="check the path")
    source = path.read_bytes()
    arguments = _class_argument(_function(source, spec.function), classes)
    with seeded(seed):
        module, facts = call_function(source, spec.function, arguments, pretrained=True)
    shape = _shape(facts.get("input_shape"), spec.function)
    halves = (0.5,) * shape[0]
    return Raw(
        module,
        "file",
        "custom",
        {"arguments": arguments},
        shape,
        tuple(float(v) for v in facts.get("mean", halves)),
        tuple(float(v) for v in facts.get("std", halves)),
        classes=_class_names(facts.get("classes")),
        task=_one_of("task", facts.get("task"), get_args(Task)),
        activation=_one_of("activation", facts.get("activation"), get_args(Activation)),
        outputs=tuple(facts.get("outputs", ())),
        function=spec.function,
        files={SOURCE_FILE: source},
    )


def files_read(spec: Spec) -> list[Path]:
    """What the file's own function `reads()` lists: paths of files beside its source that the model depends on.

    Empty where it has no such function. A change in one of them makes another model of it (`source_fingerprint`).
    Raises UnsupportedModelError where the file does not run or the list is none of paths.
    """
    reads = getattr(_execute(Path(spec.name).read_bytes()), "reads", None)
    if not callable(reads):
        return []
    try:
        return [Path(path) for path in reads()]
    except Exception as error:
        raise _failed("reads() of the model file lists the files that it reads", error) from error


def call_function(
    source: bytes, name: str, arguments: Mapping[str, Any], *, pretrained: bool
) -> tuple[nn.Module, dict[str, Any]]:
    """Run the file as a module of its own and call the function; (module, facts). Raises UnsupportedModelError."""
    function = _function(source, name)
    given = dict(arguments)
    if "pretrained" in inspect.signature(function).parameters:
        given["pretrained"] = pretrained
    try:
        result = function(**given)
    except Exception as error:
        raise _failed(
            f"{name}({', '.join(f'{k}={v}' for k, v in given.items())}) must return a model", error
        ) from error
    module, facts = result if isinstance(result, tuple) and len(result) == 2 else (result, {})
    if not isinstance(module, nn.Module) or not isinstance(facts, Mapping):
        raise UnsupportedModelError(
            f"{name} returns an nn.Module or (nn.Module, dict)", got=type(result).__name__, do="change its return"
        )
    unknown = sorted(set(facts) - set(FACTS))
    if unknown:
        raise UnsupportedModelError(f"{name} returns facts {', '.join(FACTS)}", got=unknown[0], do="remove it")
    own_shape = {"input_shape": module.input_shape} if hasattr(module, "input_shape") else {}
    return module, own_shape | dict(facts)


def _function(source: bytes, name: str) -> Callable[..., Any]:
    module = _execute(source)
    function = getattr(module, name, None)
    if not callable(function):
        raise UnsupportedModelError(f"the file has a function {name}", got="none of that name", do="check the name")
    return function  # type: ignore[no-any-return]


def _execute(source: bytes) -> ModuleType:
    """The file as a module, executed once for each content; named by its hash, so two files never mix."""
    name = f"gpusq_user_model_{hashlib.sha256(source).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = SOURCE_FILE
    sys.modules[name] = module  # dataclasses and annotations look their module up there
    try:
        exec(compile(source, SOURCE_FILE, "exec"), module.__dict__)  # noqa: S102  the user's own model code
    except Exception as error:
        del sys.modules[name]
        raise _failed("the model file runs", error) from error
    return module


def _failed(what: str, error: Exception) -> UnsupportedModelError:
    do = "mend the file"
    if isinstance(error, ImportError):
        do = "import installed packages only: the file must stand alone to be rebuilt later"
    return UnsupportedModelError(what, got=f"{type(error).__name__}: {error}", do=do)


def _class_argument(function: Callable[..., Any], classes: int | None) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    names = [n for n in ("classes", "num_classes") if n in parameters]
    return {names[0]: classes} if names and classes is not None else {}


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> Any:
    if value is None or value in allowed:
        return value
    raise UnsupportedModelError(f"{name} is one of {', '.join(allowed)}", got=repr(value), do="change the fact")


def _shape(value: Any, name: str) -> tuple[int, int, int]:
    if isinstance(value, (tuple, list)) and len(value) == 3 and all(isinstance(v, int) and v > 0 for v in value):
        channels, height, width = value
        return channels, height, width
    raise UnsupportedModelError(
        f"{name} tells its input_shape (channels, height, width)",
        got=repr(value),
        do="return (module, {'input_shape': (3, 224, 224)}) or set module.input_shape",
    )


def _class_names(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    return tuple(str(i) for i in range(value)) if isinstance(value, int) else tuple(str(v) for v in value)
