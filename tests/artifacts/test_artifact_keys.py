"""Keys and digests: equal inputs in any order agree, any change shows, what JSON cannot carry is refused."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpusq.artifacts import Manifest, Parent, artifact_key, canonical_json
from gpusq.artifacts.files import why_bad_name
from gpusq.artifacts.manifest import FileEntry, manifest_digest, parse, render, seal
from gpusq.errors import ArtifactError, NewerSchemaError, TamperedArtifactError

# Fixed examples, and no deadline: the machine may be busy.
calm = settings(deadline=None, derandomize=True, database=None)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(text, v, max_size=3), max_leaves=12)
objects = st.dictionaries(text, values, max_size=5)
hexes = st.text("0123456789abcdef", min_size=64, max_size=64)
parents = st.lists(st.builds(Parent, role=text, kind=st.just("dense"), key=hexes, digest=hexes), max_size=3)
keyed = st.fixed_dictionaries(
    {
        "stage": text,
        "stage_version": st.integers(0, 9),
        "params": objects,
        "parents": parents,
        "inputs": st.dictionaries(text, hexes, max_size=3),
        "target": st.none() | text,
        "toolchain": st.dictionaries(text, text, max_size=3),
    }
)


def shuffled(value: Any, random: Any) -> Any:
    """The same value with every mapping in another order."""
    if isinstance(value, dict):
        names = list(value)
        random.shuffle(names)
        return {name: shuffled(value[name], random) for name in names}
    return [shuffled(item, random) for item in value] if isinstance(value, list) else value


@calm
@given(values, st.randoms(use_true_random=False))
def test_order_of_keys_does_not_count(value: Any, random: Any) -> None:
    assert canonical_json(shuffled(value, random)) == canonical_json(value)


@calm
@given(values)
def test_canonical_json_reads_back(value: Any) -> None:
    data = canonical_json(value)
    assert canonical_json(json.loads(data)) == data


@calm
@given(values, values)
def test_unequal_values_have_unequal_bytes(a: Any, b: Any) -> None:
    same = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    assert (canonical_json(a) == canonical_json(b)) == same


@calm
@given(keyed, st.randoms(use_true_random=False))
def test_key_ignores_order_and_the_parents_own_key(fields: dict[str, Any], random: Any) -> None:
    other = {name: shuffled(v, random) if name != "parents" else v for name, v in fields.items()}
    other["parents"] = tuple(p.model_copy(update={"key": "0" * 64}) for p in fields["parents"])
    assert artifact_key(**other) == artifact_key(**fields)


@calm
@given(keyed, keyed, st.sampled_from(["stage", "stage_version", "params", "parents", "inputs", "target", "toolchain"]))
def test_any_change_of_any_field_changes_the_key(a: dict[str, Any], b: dict[str, Any], name: str) -> None:
    changed = {**a, name: b[name]}
    told = [{**f, "parents": [(p.role, p.digest) for p in f["parents"]]} for f in (a, changed)]
    same = canonical_json(told[0]) == canonical_json(told[1])
    assert (artifact_key(**a) == artifact_key(**changed)) == same


@calm
@given(keyed, objects, st.data())
def test_any_change_of_the_manifest_is_seen(fields: dict[str, Any], facts: dict[str, Any], data: Any) -> None:
    entry = FileEntry(sha256="cd" * 32, size=3)
    sealed = seal(kind="dense", facts=facts, files={"a": entry}, key=artifact_key(**fields), **fields)
    raw = render(sealed)
    assert parse(raw, Path("x")) == sealed
    content = json.loads(raw)
    name = data.draw(st.sampled_from(sorted(content)))
    replacement = data.draw(values.filter(lambda v: canonical_json(v) != canonical_json(content[name])))
    with pytest.raises((TamperedArtifactError, NewerSchemaError)):
        parse(json.dumps({**content, name: replacement}, indent=1, sort_keys=True).encode(), Path("x"))
    with pytest.raises(TamperedArtifactError):  # the same content in other bytes is not what was sealed
        parse(json.dumps(content).encode(), Path("x"))


class Score(str, enum.Enum):
    WANDA = "wanda"


def test_subclasses_count_as_their_base() -> None:
    numpy = pytest.importorskip("numpy")
    mixed = {"a": numpy.float64(0.5), "b": Score.WANDA, "c": (1, 2)}
    assert canonical_json(mixed) == canonical_json({"a": 0.5, "b": "wanda", "c": [1, 2]})


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), {1: "a"}, {None: 1}, Path("x"), b"x", {1, 2}, "\ud800", {"\udfff": 1}, object()],
)
def test_what_json_cannot_carry_is_refused(value: Any) -> None:
    with pytest.raises(ArtifactError, match=r"params\.deep"):
        canonical_json({"deep": value}, where="params")


def test_endless_nesting_is_refused() -> None:
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(ArtifactError, match="nested deeper"):
        canonical_json(ring)


BAD_NAMES = [
    *("", ".", "..", "/etc/passwd", "../x", "a/../../x", "a/..", "a//b", "a/", "./a", "a/./b"),
    *("a\x00b", "a\nb", "a\x7fb", "a\\b", "..\\x", "\ud800", "x" * 256, "é" * 128, "artifact.json"),
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_manifest_refuses_names_that_lead_elsewhere(name: str, fields: Any) -> None:
    with pytest.raises(ArtifactError):
        seal(files={name: FileEntry(sha256="cd" * 32, size=3)}, **fields())


@pytest.mark.parametrize("pair", [("a.bin", "A.BIN"), ("\u00e9", "e\u0301"), ("stra\u00dfe", "STRASSE")])
def test_manifest_refuses_names_equal_on_other_file_systems(pair: tuple[str, str], fields: Any) -> None:
    with pytest.raises(ArtifactError, match="differ only by case"):
        seal(files={name: FileEntry(sha256="cd" * 32, size=3) for name in pair}, **fields())


@calm
@given(st.lists(text, min_size=1, max_size=3))
def test_a_name_that_is_accepted_stays_inside(parts: list[str]) -> None:
    name = "/".join(parts)
    if not why_bad_name(name):
        assert Path("/root", name).resolve().is_relative_to("/root")
        assert str(Path("/root", name)) == f"/root/{name}"


def test_key_must_be_the_fields_own(fields: Any) -> None:
    with pytest.raises(ArtifactError, match="key must be"):
        seal(files={}, **{**fields(), "key": "0" * 64})


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"1", b"\xff\xfe", b"{}", b"[" * 100_000, b'{"kind": NaN}'])
def test_what_is_no_manifest_is_tampered(raw: bytes) -> None:
    with pytest.raises(TamperedArtifactError, match="gpusq verify"):
        parse(raw, Path("x"))


def test_newer_schema_says_upgrade(fields: Any) -> None:
    raw = render(seal(files={}, **fields())).replace(b'"schema_version": 1', b'"schema_version": 2')
    with pytest.raises(NewerSchemaError, match="upgrade gpusq"):
        parse(raw, Path("x"))


def test_manifest_is_frozen_and_closed(fields: Any) -> None:
    sealed = seal(files={}, **fields())
    with pytest.raises(ValueError, match="frozen"):
        sealed.kind = "dense"  # type: ignore[misc]
    with pytest.raises(ValueError, match="Extra inputs"):
        Manifest.model_validate({**sealed.model_dump(), "note": ""})


def test_a_seal_renewed_under_another_key_is_refused(fields: Any) -> None:
    content = seal(files={}, **fields()).model_dump()
    content["params"] = {"pattern": "none"}
    content["digest"] = manifest_digest(content)
    with pytest.raises(TamperedArtifactError, match="differs from what was sealed"):
        parse(render(Manifest.model_validate(content)), Path("x"))


def test_key_counts_role_digest_and_order_of_parents(fields: Any) -> None:
    one, two = (Parent(role="model", kind="dense", key="0" * 64, digest=c * 64) for c in "12")
    teacher = one.model_copy(update={"role": "teacher"})
    lists = [(), (one,), (two,), (teacher,), (one, two), (two, one)]
    assert len({fields(parents=given_parents)["key"] for given_parents in lists}) == len(lists)
