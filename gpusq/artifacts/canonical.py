"""One spelling for one value: canonical JSON, the input of every key and digest."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from gpusq.errors import ArtifactError

MAX_DEPTH = 32  # far below what JSON readers stand, far above what a recipe needs


def plain(value: object, where: str = "value", depth: int = 0) -> Any:
    """The value as exact JSON types: dict with str keys, list, str, int, finite float, bool, None.

    Subclasses (numpy floats, string enums) become their base, tuples become lists.
    Raises ArtifactError that names the place of anything JSON cannot carry without loss.
    """
    if depth > MAX_DEPTH:
        raise ArtifactError(f"{where}: nested deeper than {MAX_DEPTH} levels", do="flatten it")
    if isinstance(value, Mapping):
        return {_text(key, f"{where} (a key)"): plain(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    return _scalar(value, where)


def _scalar(value: object, where: str) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    return _text(value, where)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ArtifactError(
            f"{where}: expected JSON (text, finite number, true/false, null, list, object with text keys)",
            got=f"{type(value).__name__} {value!r:.80}",
            do="convert it before it is sealed",
        )
    text = str.__str__(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ArtifactError(f"{where}: expected valid Unicode text", got=ascii(text), do="rename it") from error
    return text


def canonical_json(value: object, where: str = "value") -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: equal values give equal bytes, unequal values unequal bytes."""
    return json.dumps(
        plain(value, where), sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    ).encode()


def pretty_json(value: object, where: str = "value") -> bytes:
    """The same value as indented lines for people; also deterministic."""
    text = json.dumps(plain(value, where), sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1)
    return text.encode() + b"\n"


def sha256_of(value: object, where: str = "value") -> str:
    """sha256 (64 hex digits) over the canonical JSON of the value."""
    return hashlib.sha256(canonical_json(value, where)).hexdigest()
