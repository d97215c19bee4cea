"""The engine matrix: strict, with typed errors, and the job matrices that GitHub takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpusq.cli.main import app
from gpusq.errors import GpusqError, RecipeError, UnknownTargetError
from gpusq.matrix import build_jobs, load_matrix, parse_matrix, prepare_jobs
from gpusq.recipe import load_recipe

ROOT = Path(__file__).resolve().parent.parent
GOOD = """
schema_version = 1

[runners.a100]
labels = ["self-hosted", "linux", "a100"]
minutes = 30
tensorrt = "10.16.1.11"

[runners.agx-orin]
labels = ["self-hosted", "agx-orin"]

[gates]
max_drop = 0.5

[[engine]]
name = "vit"
recipe = "export/recipes/post-training.toml"
settings = ["qat.epochs=0.5"]
targets = ["a100-80gb", "agx-orin@30W"]
gates = { min_sparse = 0.4 }

[[engine]]
name = "small"
recipe = "export/recipes/fashion-mnist-demo.toml"
data = "digits"
targets = ["a100"]
"""


def test_the_shipped_matrix_names_recipes_that_load() -> None:
    matrix = load_matrix(ROOT / "export/engines.toml")
    for engine in matrix.engine:
        load_recipe(ROOT / engine.recipe)
    labels = {label for job in build_jobs(matrix)["include"] for label in job["runs_on"]}
    assert {"self-hosted", "a100", "agx-orin"} <= labels


def test_the_jobs() -> None:
    matrix = parse_matrix(GOOD, "m")
    jobs = build_jobs(matrix)["include"]
    assert [job["id"] for job in jobs] == ["vit-a100-80gb", "vit-agx-orin-30w", "small-a100"]
    assert jobs[0] == {
        "id": "vit-a100-80gb",
        "name": "vit",
        "target": "a100-80gb",
        "folder": "a100-80gb",
        "runs_on": ["self-hosted", "linux", "a100"],
        "minutes": 30,
        "tensorrt": "10.16.1.11",
        "max_drop": 0.5,
        "min_sparse": 0.4,
        "max_regression": 0.05,
    }
    assert (jobs[1]["target"], jobs[1]["folder"]) == ("agx-orin-64gb@30W", "agx-orin-64gb-30w")
    assert jobs[2]["target"] == "a100-40gb"  # the family's default variant, as receipts name it
    assert jobs[1]["runs_on"] == ["self-hosted", "agx-orin"]
    assert jobs[2]["min_sparse"] == 0.0
    assert prepare_jobs(matrix)["include"][1] == {
        "name": "small",
        "recipe": "export/recipes/fashion-mnist-demo.toml",
        "data": "digits",
        "settings": [],
        "targets": ["a100"],
    }


@pytest.mark.parametrize(
    ("old", "new", "needle"),
    [
        ("minutes = 30", "minute = 30", "minute"),
        ("minutes = 30", 'minutes = "30"', "minutes"),
        ("minutes = 30", "minutes = 99999", "minutes"),
        ('tensorrt = "10.16.1.11"', 'tensorrt = "10.16.*"', "tensorrt"),
        ('labels = ["self-hosted", "linux", "a100"]', "labels = []", "labels"),
        ('labels = ["self-hosted", "linux", "a100"]', 'labels = ["a100; rm -rf /"]', "labels"),
        ("max_drop = 0.5", "max_drop = -1", "max_drop"),
        ("min_sparse = 0.4", "min_sparse = 40", "min_sparse"),
        ("min_sparse = 0.4", "sparse = 0.4", "gates"),
        ('name = "small"', 'name = "vit"', "twice"),
        ('name = "small"', 'name = "Small Model"', "name"),
        ('targets = ["a100"]', 'targets = ["a100", "a100"]', "twice"),
        ('targets = ["a100"]', "targets = []", "targets"),
        ('targets = ["a100"]', 'targets = ["cpu"]', "GPUs"),
        ('"qat.epochs=0.5"', '"qat epochs 0.5"', "settings"),
        ("schema_version = 1", "schema_version = 2", "schema_version"),
        ("schema_version = 1", "", "schema_version"),
        ("[[engine]]", "[[engines]]", "engine"),
        ("schema_version = 1", "schema_version = = 1", "TOML"),
        ("[runners.agx-orin]", "[runners.other]", "no \\[runners"),
    ],
)
def test_a_matrix_that_is_not_right_is_refused_with_its_key(old: str, new: str, needle: str) -> None:
    assert old in GOOD
    with pytest.raises(RecipeError, match=needle):
        parse_matrix(GOOD.replace(old, new), "engines.toml")


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(UnknownTargetError):
        parse_matrix(GOOD.replace('targets = ["a100"]', 'targets = ["b200"]'), "m")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GpusqError, match="cannot be read"):
        load_matrix(tmp_path / "none.toml")


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(GOOD)
    for jobs, made in (("build", build_jobs), ("prepare", prepare_jobs)):
        arguments = ["matrix", "--for", jobs, "--file", str(tmp_path / "m.toml")]
        done = CliRunner().invoke(app, [*arguments, "--json"])
        assert json.loads(done.stdout) == made(parse_matrix(GOOD, "m"))
        assert "vit" in CliRunner().invoke(app, arguments).stdout
    assert CliRunner().invoke(app, ["matrix", "--file", str(tmp_path / "no.toml")]).exit_code == 2
