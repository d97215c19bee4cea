"""The known-bad list: which of its entries hold for a machine and a model."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from gpusq.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "known_bad.toml"
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=8)]
Url = Annotated[str, StringConstraints(pattern=r"^https://\S+$")]
CLAUSE = re.compile(r"(>=|<=|==|>|<)\s*(\d+(?:\.\d+)*)")


class Strict(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class When(Strict):
    """Every condition that is given must hold; at least one is given. Ranges like ">=10.14,<11"; "" is any version."""

    tensorrt: str | None = None
    capabilities: tuple[Annotated[str, StringConstraints(pattern=r"^\d+\.\d$")], ...] = ()
    jetson: bool | None = None
    l4t: str | None = None
    operators: tuple[str, ...] = ()
    packages: dict[str, str] = Field(default_factory=dict)

    @field_validator("tensorrt", "l4t")
    @classmethod
    def _range(cls, value: str | None) -> str | None:
        if value is not None:
            in_range("1", value)
        return value

    @field_validator("packages")
    @classmethod
    def _ranges(cls, value: dict[str, str]) -> dict[str, str]:
        for text in value.values():
            in_range("1", text)
        return value

    @model_validator(mode="after")
    def _says_something(self) -> When:
        if not self.model_fields_set:
            raise ValueError("an entry without a condition would hold everywhere")
        return self


class Entry(Strict):
    """id: stable name. what: what goes wrong. do: the mend. evidence: how it is known. sources: addresses."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]+$")]
    what: Text
    do: Text
    evidence: Text
    sources: Annotated[tuple[Url, ...], Field(min_length=1)]
    when: When


@dataclass(frozen=True)
class Facts:
    """What is known of the machine and, where one was given, the model. None and empty: not known, so no entry holds.

    packages: version of an installed distribution or None. operators: op types of the model, None without a model.
    """

    tensorrt: str | None = None
    capability: str | None = None
    jetson: bool = False
    l4t: str | None = None
    packages: Callable[[str], str | None] = field(default=lambda name: None)
    operators: Collection[str] | None = None


@cache
def known_bad() -> tuple[Entry, ...]:
    """The shipped list."""
    return parse_known_bad(resources.files("gpusq.doctor").joinpath(FILE).read_text(encoding="utf-8"))


def parse_known_bad(text: str) -> tuple[Entry, ...]:
    """Check the text of a list. Raises UsageError naming the entry and key that are wrong."""
    try:
        entries = tuple(Entry.model_validate(table) for table in _tables(text))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(f"known-bad list, key {place}: {first['msg']}", got=repr(first["input"])[:80]) from error
    names = [entry.id for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError("each entry of the known-bad list has its own id", got=", ".join(twice), do="rename one")
    return entries


def _tables(text: str) -> list[Mapping[str, object]]:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError("the known-bad list is TOML", got=str(error), do="mend the line it names") from error
    if set(tables) - {"entry"} or not isinstance(tables.get("entry", []), list):
        raise UsageError("the known-bad list holds [[entry]] tables only", got=", ".join(tables))
    return list(tables.get("entry", []))


def in_range(version: str, wanted: str) -> bool:
    """Whether a version like "10.13.3.9" lies in a range like ">=10.13.3,<10.14"; "" holds every version.

    Compared number by number, missing ones are 0; letters and what follows them do not count ("2.13.0+cu130" is
    2.13.0). "==10.13" means exactly 10.13.0. Raises UsageError for a range that does not read.
    """
    if not wanted.strip():
        return True
    own = _numbers(version)
    for clause in wanted.split(","):
        match = CLAUSE.fullmatch(clause.strip())
        if match is None:
            raise UsageError("a version range reads like '>=10.14,<11'", got=wanted, do="correct it")
        if not _holds(own, match.group(1), _numbers(match.group(2))):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(?:\.\d+)*", version.strip())
    numbers = [int(part) for part in found.group().split(".")] if found else []
    return tuple((numbers + [0] * 6)[:6])


def _holds(own: tuple[int, ...], sign: str, other: tuple[int, ...]) -> bool:
    return {
        ">=": own >= other,
        "<=": own <= other,
        "==": own == other,
        ">": own > other,
        "<": own < other,
    }[sign]


def holding(entries: Collection[Entry], facts: Facts) -> list[Entry]:
    """The entries that hold: each condition fulfilled by something that is known."""
    return [entry for entry in entries if _machine_fits(entry.when, facts) and _model_fits(entry.when, facts)]


def waiting_for_model(entries: Collection[Entry], facts: Facts) -> list[Entry]:
    """The entries that hold here for models with certain operators, while no model was given."""
    if facts.operators is not None:
        return []
    return [entry for entry in entries if entry.when.operators and _machine_fits(entry.when, facts)]


def _machine_fits(when: When, facts: Facts) -> bool:
    if when.tensorrt is not None and not (facts.tensorrt and in_range(facts.tensorrt, when.tensorrt)):
        return False
    if when.l4t is not None and not (facts.l4t and in_range(facts.l4t, when.l4t)):
        return False
    if when.capabilities and facts.capability not in when.capabilities:
        return False
    if when.jetson is not None and when.jetson != facts.jetson:
        return False
    installed = {name: facts.packages(name) for name in when.packages}
    return all(v is not None and in_range(v, when.packages[name]) for name, v in installed.items())


def _model_fits(when: When, facts: Facts) -> bool:
    return not when.operators or bool(set(when.operators) & set(facts.operators or ()))
