"""Command-line options made from a stage's fields, so that a parameter is written down once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from gpusq.stages.stage import Stage


def options_of(stage: type[Stage], skip: frozenset[str] = frozenset()) -> list[inspect.Parameter]:
    """One keyword-only option for each field; the default None means "as the stage has it"."""
    hints = get_type_hints(stage)
    return [_option(f.name, hints[f.name], f.default, f.metadata) for f in fields(stage) if f.name not in skip]


def _option(name: str, hint: Any, default: Any, metadata: Any) -> inspect.Parameter:
    text = f"{metadata.get('help', '')}{_choices(hint)} (default: {_shown(default)})"
    flag = "--" + name.replace("_", "-")
    flags = [f"{flag}/--no-{name.replace('_', '-')}"] if hint is bool else [flag]
    kind: Any = _cli_type(hint)
    annotation = Annotated[kind, typer.Option(*flags, help=text, show_default=False)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _cli_type(hint: Any) -> Any:
    if get_origin(hint) is tuple:
        return list[get_args(hint)[0]] | None  # type: ignore[misc]
    for plain in (bool, int, float):
        if hint is plain or plain in get_args(hint):
            return plain | None
    return str | None


def _choices(hint: Any) -> str:
    return f" One of: {', '.join(map(str, get_args(hint)))}." if get_origin(hint) is Literal else ""


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        return ", ".join(map(str, default)) or "none"
    return "none" if default is None else str(default)


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Only the options that were given; lists become tuples."""
    kept = {k: v for k, v in values.items() if v is not None and v != []}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()}


def with_options(function: Callable[..., None], stage: type[Stage], skip: frozenset[str]) -> Callable[..., None]:
    """`function` with the stage's options in its signature; they arrive in its `**options`."""
    hints = get_type_hints(function, include_extras=True)
    own = inspect.signature(function).parameters.values()
    kept = [p.replace(annotation=hints[p.name]) for p in own if p.kind is not inspect.Parameter.VAR_KEYWORD]
    signature = inspect.Signature([*kept, *options_of(stage, skip)])
    function.__signature__ = signature  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    return function
