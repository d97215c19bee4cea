"""Model specifications: read them, and fingerprint what they stand for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl

from torch import nn

from gpusq.errors import UnsupportedModelError
from gpusq.models.description import Activation, Resize, Source, Task

FORMS = "hf:DIR, new:NAME, file.py:function or timm:NAME"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HASH_BYTES = 1 << 20
BESIDE_A_FILE = ("*.pt", "*.pth", "*.ckpt", "*.bin", "*.npz", "*.npy", "*.onnx", "*.json")
"""What counts beside a model file, safetensors apart."""


@dataclass(frozen=True)
class Spec:
    """A model specification taken apart: source, the directory, preset or path, function, and options after '?'."""

    source: Source
    name: str
    function: str = ""
    options: dict[str, str] = field(default_factory=dict)


@dataclass
class Raw:
    """A model as its source gives it, not yet canonical. classes: None where the source names none.

    task: None where the model's outputs have to show it. activation: of a detector, None where its width has to show
    it. outputs: names of the fields that a model of task "tensors" gives. fresh: as in LoadedModel.
    """

    module: nn.Module
    source: Source
    family: str
    config: dict[str, Any]
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Resize = "bilinear"
    classes: tuple[str, ...] | None = None
    function: str | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    task: Task | None = "classification"
    activation: Activation | None = None
    outputs: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()

    @property
    def architecture(self) -> str:
        """Class name of the module."""
        return type(self.module).__name__


def parse_spec(spec: str) -> Spec:
    """Take a model specification apart. Raises UnsupportedModelError where it is none of the known forms."""
    prefix, colon, rest = spec.partition(":")
    source: Literal["hf", "new", "timm"]
    if prefix in ("hf", "new", "timm") and rest:
        source = prefix  # type: ignore[assignment]
        name, _, query = rest.partition("?")
        options = dict(parse_qsl(query, keep_blank_values=True))
        if query and not options:
            raise UnsupportedModelError("options after '?' are key=value&key=value", got=query, do="write them so")
        return Spec(source, name, options=options)
    path, colon, function = spec.rpartition(":")
    if colon and path.endswith(".py") and function.isidentifier():
        return Spec("file", path, function)
    raise UnsupportedModelError(f"a model is given as {FORMS}", got=repr(spec), do="give one of these forms")


def option(spec: Spec, allowed: tuple[str, ...]) -> dict[str, str]:
    """The options of a specification. Raises UnsupportedModelError naming one that is not allowed."""
    for key in spec.options:
        if key not in allowed:
            known = ", ".join(allowed) or "none"
            raise UnsupportedModelError(
                f"{spec.source}:{spec.name} takes these options: {known}", got=key, do="remove it"
            )
    return spec.options


def source_fingerprint(spec: str) -> str:
    """sha256 hex over all that enters `load_model(spec)`; the same content elsewhere gives the same fingerprint.

    A model directory counts with its configuration and weights; a file with its source, the function's name and the
    files of kinds that hold weights or settings (BESIDE_A_FILE) in the same folder, since its code may read them, and
    those that its own function `reads()` lists. What else it reads does not count: after a change there, the artifact
    of before is found again. Raises UnsupportedModelError where files are missing.
    """
    parsed = parse_spec(spec)
    facts: dict[str, Any] = {"source": parsed.source, "function": parsed.function, "options": parsed.options}
    if parsed.source in ("new", "timm"):
        facts["name"] = parsed.name
    facts["files"] = {path.name: _sha256(path) for path in _files(parsed)}
    if parsed.source == "file":
        from gpusq.models.user_file import files_read

        facts |= {"reads": read} if (read := [_sha256(path) for path in _existing(files_read(parsed))]) else {}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _files(spec: Spec) -> list[Path]:
    if spec.source == "hf":
        folder = Path(spec.name)
        return _existing([folder / "config.json"]) + sorted(folder.glob("preproc*.json")) + _weights(folder)
    if spec.source == "file":
        return _existing([Path(spec.name)]) + _weights(Path(spec.name).parent, *BESIDE_A_FILE)
    return _existing([Path(spec.options["weights"])]) if "weights" in spec.options else []


def _weights(folder: Path, *more: str) -> list[Path]:
    patterns = ("*.safetensors", "*.safetensors.index.json", *more)
    return sorted({p for pattern in patterns for p in folder.glob(pattern) if p.is_file()})


def _existing(paths: list[Path]) -> list[Path]:
    for path in paths:
        if not path.is_file():
            raise UnsupportedModelError(f"{path} is needed to load the model", got="no such file", do="check the path")
    return paths


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(HASH_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
