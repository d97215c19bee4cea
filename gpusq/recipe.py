"""Recipes: TOML to the stages' own parameters, strictly, and back.

    [model]                     source = "hf:./deit-small"
    [data]                      source = "./imagenet"
    [prune] [qat] [export]      the fields of the stage of that name
    [build]                     targets = ["cpu", "a100"], and the fields of Build
    [train]                     optional: train the model first (`new:` models)
    [sensitivity]               optional: measure every block first and keep the costliest ones dense or FP16
    [report]                    max_drop (points of accuracy), min_speedup: what the verdict asks for

Every table may be left out; every key is checked against the stage's fields, and an unknown one is refused
with file, table and key. There is no inheritance.
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from gpusq.errors import RecipeError
from gpusq.stages import Build, Export, Prune, Qat, Sensitivity, Train
from gpusq.stages.stage import Stage

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

S = TypeVar("S", bound=Stage)


@dataclass(frozen=True)
class Recipe:
    """One run: the model, the data, the parameters of each stage and the targets of the last."""

    model: str = ""
    classes: int | None = None
    data: str = ""
    prune: Prune = field(default_factory=Prune)
    qat: Qat = field(default_factory=Qat)
    export: Export = field(default_factory=Export)
    build: Build = field(default_factory=Build)
    targets: tuple[str, ...] = ("cpu",)
    train: Train | None = None
    sensitivity: Sensitivity | None = None
    max_drop: float = 1.0
    min_speedup: float = 1.05

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop < math.inf:
            got = str(self.max_drop)
            raise RecipeError("max_drop must be finite and at least 0", got=got, do="give points of accuracy, e.g. 1.0")
        if not 0 < self.min_speedup < math.inf:
            got = str(self.min_speedup)
            raise RecipeError("min_speedup must be finite and above 0", got=got, do="give a factor, e.g. 1.05")


STAGES: dict[str, type[Stage]] = {
    "train": Train,
    "sensitivity": Sensitivity,
    "prune": Prune,
    "qat": Qat,
    "export": Export,
    "build": Build,
}
PLAIN_KEYS: dict[str, dict[str, type]] = {
    "model": {"source": str, "classes": int},
    "data": {"source": str},
    "report": {"max_drop": float, "min_speedup": float},
}


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file. Raises RecipeError naming file, table and key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} cannot be read", got=str(error), do="give the path of a TOML file") from error
    return parse_recipe(text, str(path))


def parse_recipe(text: str, name: str = "recipe") -> Recipe:
    """Read recipe text; `name` stands in messages for the file."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{name} is not valid TOML", got=str(error), do="mend the line it names") from error
    recipe = Recipe()
    for table, values in tables.items():
        if not isinstance(values, dict):
            raise RecipeError(f"{name}: {table} must be a table", got=repr(values), do=f"write it under [{table}]")
        recipe = apply_table(recipe, table, values, name)
    return recipe


def apply_table(recipe: Recipe, table: str, values: Mapping[str, Any], name: str) -> Recipe:
    """`recipe` with the keys of one table set."""
    known = [*PLAIN_KEYS, *STAGES]
    if table not in known:
        raise RecipeError(f"{name}: unknown table [{table}]", do=_nearest(table, known))
    if table in PLAIN_KEYS:
        return _apply_plain(recipe, table, values, name)
    values = dict(values)
    if table == "build" and "targets" in values:
        recipe = replace(recipe, targets=_targets(values.pop("targets"), name))
    current = getattr(recipe, table) or STAGES[table]()
    changes: dict[str, Any] = {table: with_values(current, values, f"{name}: [{table}]")}
    return replace(recipe, **changes)


def apply_settings(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """`recipe` with command-line settings "stage.key=value" applied; the value is read as TOML, else as a string."""
    for setting in settings:
        left, equals, value = setting.partition("=")
        table, dot, key = left.strip().partition(".")
        if not (equals and dot and key):
            raise RecipeError("--set expects STAGE.KEY=VALUE", got=setting, do="for example --set qat.epochs=2")
        recipe = apply_table(recipe, table, {key: toml_value(value)}, f"--set {setting}")
    return recipe


def toml_value(text: str) -> Any:
    """A TOML value, or the text itself where it is none (so that strings need no quotes)."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def with_values(stage: S, values: Mapping[str, Any], where: str) -> S:
    """`stage` with fields set, each checked against the field's type. Raises RecipeError with place, key and type."""
    names = [f.name for f in fields(stage)]
    for key in values:
        if key not in names:
            raise RecipeError(f"{where} has no key {key!r}", do=_nearest(key, names))
    hints = get_type_hints(type(stage))
    return replace(stage, **{key: _checked(hints[key], key, value, where) for key, value in values.items()})


def _checked(hint: Any, key: str, value: Any, where: str) -> Any:
    """`value` where it is of the field's type: a number is no text, a truth value no number; lists become tuples."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(hint).validate_python(tuple(value) if isinstance(value, list) else value, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(
            f"{where} key {key!r}: {first['msg'].lower()}", got=repr(value), do="correct the value"
        ) from error


def _apply_plain(recipe: Recipe, table: str, values: Mapping[str, Any], name: str) -> Recipe:
    allowed = PLAIN_KEYS[table]
    for key, value in values.items():
        if key not in allowed:
            raise RecipeError(f"{name}: [{table}] has no key {key!r}", do=_nearest(key, list(allowed)))
        if allowed[key] is float and type(value) is int:
            value = float(value)
        if not isinstance(value, allowed[key]) or isinstance(value, bool):
            expected = allowed[key].__name__
            raise RecipeError(f"{name}: [{table}] {key} must be of type {expected}", got=repr(value), do="correct it")
        target = table if key == "source" else key
        changes: dict[str, Any] = {target: value}
        try:
            recipe = replace(recipe, **changes)
        except RecipeError as error:
            raise RecipeError(f"{name}: [{table}] {error.what}", got=error.got, do=error.do) from error
    return recipe


def _targets(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise RecipeError(
            f"{name}: [build] targets must be a list of names", got=repr(value), do='as in ["cpu", "a100"]'
        )
    return tuple(value)


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}known: {', '.join(known)}"


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as TOML with every parameter written out; `parse_recipe` reads it back to an equal recipe."""
    model: dict[str, Any] = {"source": recipe.model}
    if recipe.classes is not None:
        model["classes"] = recipe.classes
    report = {"max_drop": recipe.max_drop, "min_speedup": recipe.min_speedup}
    tables: dict[str, dict[str, Any]] = {"model": model, "data": {"source": recipe.data}, "report": report}
    for name in STAGES:
        stage = getattr(recipe, name)
        if stage is not None:
            tables[name] = {f.name: getattr(stage, f.name) for f in fields(stage)}
    tables["build"] = {"targets": recipe.targets, **{k: v for k, v in tables["build"].items() if k != "target"}}
    return "\n".join(_toml_table(name, values) for name, values in tables.items())


def _toml_table(name: str, values: Mapping[str, Any]) -> str:
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]
    return "\n".join([f"[{name}]", *lines, ""])


def _toml(value: Any) -> str:
    import json

    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML has it escaped, JSON not
    return repr(value)
