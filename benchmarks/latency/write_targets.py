"""Write fitted sections into the shipped target files, between "# fitted: begin" and "# fitted: end"."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gpusq.targets
from gpusq.targets import EngineFit, Fit

FOLDER = Path(gpusq.targets.__file__).parent
BEGIN, END = "# fitted: begin\n", "# fitted: end"


def write_fitted(family: str, fits: Mapping[str, Fit], engine: EngineFit) -> None:
    """Replace the fitted sections of a family's file."""
    path = FOLDER / f"{family}.toml"
    whole = path.read_text(encoding="utf-8")
    before, _, rest = whole.partition(BEGIN)
    _, _, after = rest.partition(END)
    parts = [toml_section(f'fits."{name}"', fit.model_dump(exclude_defaults=True)) for name, fit in fits.items()]
    parts.append(toml_section("engine", engine.model_dump()))
    path.write_text(before + BEGIN + "\n".join(parts) + END + after, encoding="utf-8")


def toml_section(name: str, values: Mapping[str, Any]) -> str:
    """One TOML table; inner dictionaries become tables of their own."""
    lines = [f"[{name}]"]
    lines += [f"{key} = {_value(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += [f"[{name}.{key}]", *(f"{json.dumps(k)} = {_value(v)}" for k, v in value.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """Bands as inline tables, one a line; all else as JSON writes it, which TOML reads."""
    if isinstance(value, list | tuple):
        inner = ",\n".join("  { " + ", ".join(f"{k} = {_value(v)}" for k, v in item.items()) + " }" for item in value)
        return f"[\n{inner},\n]"
    return json.dumps(value)
