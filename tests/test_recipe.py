"""Recipes: every file parses, every parameter survives writing and reading, everything unknown is refused."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpusq.data.calibration import read_manifest
from gpusq.errors import RecipeError, UsageError
from gpusq.recipe import STAGES, Recipe, apply_settings, dump_recipe, load_recipe, parse_recipe, toml_value
from gpusq.stages import Prune, Qat, Train
from gpusq.stages.stage import Stage
from gpusq.targets import load_target

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "export" / "recipes").glob("*.toml"))
MANIFESTS = sorted((ROOT / "calibration").glob("*.txt"))

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(1, 10**6),
    float: st.floats(1e-9, 1e6),
    str: text,
    tuple: st.lists(text, max_size=3).map(tuple),
}


SHARES = ("least_crop", "box_iou", "score_difference", "faint_agreement")  # parameters that are refused above 1


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Valid values of a field's type."""
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) is tuple:
        return VALUES[tuple]
    kinds = [k for k in get_args(hint) or (hint,) if k is not type(None)]
    optional = [st.none()] if len(kinds) < len(get_args(hint)) else []
    return st.one_of(*(VALUES[k] for k in kinds), *optional)


def stages(kind: type[Stage]) -> st.SearchStrategy[Stage]:
    """A stage with any valid parameters."""
    hints = get_type_hints(kind)
    names = [f.name for f in fields(kind) if (kind.name, f.name) != ("build", "target")]
    values = {name: st.floats(1e-9, 1) if name in SHARES else values_of(hints[name]) for name in names}
    return st.builds(kind, **values)


recipes = st.builds(
    Recipe,
    model=text,
    classes=st.none() | st.integers(1, 1000),
    data=text,
    targets=st.lists(text, min_size=1, max_size=3).map(tuple),
    max_drop=st.floats(0, 100),
    min_speedup=st.floats(0, 100, exclude_min=True),
    **{name: stages(kind) | (st.none() if name == "train" else st.nothing()) for name, kind in STAGES.items()},
)


@given(recipes)
def test_a_written_recipe_reads_back_equal(recipe: Recipe) -> None:
    assert parse_recipe(dump_recipe(recipe)) == recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_committed_recipe_parses(path: Path) -> None:
    recipe = load_recipe(path)
    assert parse_recipe(dump_recipe(recipe)) == recipe
    assert [load_target(name).name for name in recipe.targets]
    if recipe.qat.calibration:
        assert read_manifest(ROOT / recipe.qat.calibration).n > 0


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.stem)
def test_every_committed_manifest_loads(path: Path) -> None:
    manifest = read_manifest(path)
    assert manifest.split == "train"
    assert str(manifest.n) in path.stem


def test_there_are_recipes_and_manifests() -> None:
    assert len(RECIPES) >= 3
    assert len(MANIFESTS) >= 2


def test_the_starter_recipe_parses() -> None:
    from gpusq.starter import RECIPE

    assert parse_recipe(RECIPE).targets == ("cpu", "a100", "agx-orin")


def test_an_empty_recipe_has_the_stages_own_defaults() -> None:
    assert parse_recipe("") == Recipe()
    assert parse_recipe("[train]\n").train == Train()


@pytest.mark.parametrize(
    ("content", "needles"),
    [
        ("[qat]\nlerning_rate = 1", ("file.toml", "[qat]", "'lerning_rate'", "did you mean 'learning_rate'?")),
        ("[quat]\nepochs = 1", ("file.toml", "[quat]", "did you mean 'qat'?")),
        ("[model]\nsorce = 'x'", ("file.toml", "[model]", "'sorce'", "did you mean 'source'?")),
        ("[prune]\nepochs = 'two'", ("file.toml", "[prune]", "'epochs'", "'two'")),
        ("[prune]\nepochs = true", ("file.toml", "[prune]", "'epochs'", "True")),
        ("[prune]\nseed = 1.5", ("file.toml", "[prune]", "'seed'")),
        ("[prune]\nkeep_dense = 'head'", ("file.toml", "[prune]", "'keep_dense'")),
        ("[qat]\npolicy = 'all'", ("file.toml", "[qat]", "'policy'", "inputs")),
        ("[qat]\nlearn_scales = 'yes'", ("file.toml", "[qat]", "'learn_scales'")),
        ("[model]\nclasses = true", ("file.toml", "[model]", "classes", "int")),
        ("[report]\nmax_drop = 'a'", ("file.toml", "[report]", "max_drop", "float")),
        ("[report]\nmax_drop = -1", ("file.toml", "[report]", "max_drop", "at least 0", "-1")),
        ("[report]\nmax_drop = inf", ("file.toml", "[report]", "max_drop", "finite", "inf")),
        ("[report]\nmin_speedup = nan", ("file.toml", "[report]", "min_speedup", "finite", "nan")),
        ("[report]\nmin_speedup = 0", ("file.toml", "[report]", "min_speedup", "above 0")),
        ("[build]\ntargets = 'cpu'", ("file.toml", "targets", "list")),
        ("[build]\ntargets = []", ("file.toml", "targets", "list")),
        ("prune = 3", ("file.toml", "prune", "table")),
        ("[prune\n", ("file.toml", "TOML")),
    ],
)
def test_what_is_wrong_is_named(content: str, needles: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(content, "file.toml")
    for needle in needles:
        assert needle in str(caught.value)


@pytest.mark.parametrize("name", sorted(STAGES))
def test_an_unknown_key_of_any_stage_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=rf"\[{name}\] has no key 'zzz'; known: "):
        parse_recipe(f"[{name}]\nzzz = 1")


@pytest.mark.parametrize("bad", ["[prune]\nbatch_size = 0", "[qat]\ntemperature = 0", "[qat]\nepochs = inf"])
def test_values_outside_their_range_are_refused(bad: str) -> None:
    with pytest.raises(UsageError):
        parse_recipe(bad)


def test_a_recipe_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.toml"):
        load_recipe(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"binary\.toml"):
        load_recipe(tmp_path / "binary.toml")


def test_settings_win_over_the_recipe() -> None:
    recipe = parse_recipe("[qat]\nepochs = 1\npolicy = 'inputs'\n[prune]\nseed = 3")
    settings = ["qat.epochs=0.25", "qat.policy=attention", "prune.keep_dense=['a', 'b']", 'model.source="new:x"']
    changed = apply_settings(recipe, [*settings, "report.max_drop=2", "build.targets=['a100']"])
    assert changed.qat == replace(Qat(), epochs=0.25, policy="attention")
    assert changed.prune == Prune(seed=3, keep_dense=("a", "b"))
    assert (changed.model, changed.max_drop, changed.targets) == ("new:x", 2.0, ("a100",))


@given(text)
def test_a_setting_is_toml_or_the_text_itself(value: str) -> None:
    """Whatever stands behind the equals sign, there is a value or a refusal, never another key."""
    found = toml_value(value)
    assert found is not None
    if isinstance(found, str) and not value.strip().startswith(('"', "'")):
        assert found == value.strip()
