"""A target file as TOML text: what `read_target_file` reads back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gpusq.targets.facts import TargetFile

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def target_toml(file: TargetFile, comments: Sequence[str] = ()) -> str:
    """The file as text, each comment on a line of its own above it. Inverse of `parse_target_file`."""
    plain = file.model_dump(mode="json", exclude_none=True)
    lines = [f"# {' '.join(comment.split())}" for comment in comments]
    return "\n".join([*lines, *_table("", plain)]) + "\n"


def _table(name: str, values: Mapping[str, Any]) -> list[str]:
    """Plain values and facts first, then the tables within; a fact ({value, source}) stays on one line."""
    inner = {key: value for key, value in values.items() if isinstance(value, Mapping) and not _is_fact(value)}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in values.items() if key not in inner]
    if lines and name:
        lines.insert(0, f"\n[{name}]")
    for key, value in inner.items():
        lines += _table(f"{name}.{_key(key)}" if name else _key(key), value)
    return lines


def _is_fact(value: Mapping[str, Any]) -> bool:
    return set(value) == {"value", "source"}


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else json.dumps(key)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(inner) for inner in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
