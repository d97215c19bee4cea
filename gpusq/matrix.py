"""The engines that CI builds: export/engines.toml, read strictly, and the job matrices made of it.

[runners.a100]       labels = ["self-hosted", "linux", "x64", "a100"]; minutes = 90; tensorrt = "10.16.1.11"
[gates]              max_drop, min_sparse, max_regression: what each engine is held to
[[engine]]           name, recipe, targets; settings and gates of its own where they differ
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from gpusq.errors import RecipeError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

DEFAULT_FILE = Path("export/engines.toml")
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Setting = Annotated[str, StringConstraints(pattern=r"^[a-z]+\.[a-z0-9_]+=.*$")]
TensorRt = Annotated[str, StringConstraints(pattern=r"^(system|none|\d+\.\d+\.\d+(\.\d+)?)$")]
LONGEST_JOB_MINUTES = 5 * 24 * 60  # GitHub ends a job on a self-hosted runner after five days


class Strict(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Gates(Strict):
    """max_drop: points of accuracy against the expected outputs or the twin. min_sparse: least share (0 to 1) of GEMM
    time in 2:4 kernels. max_regression: slower than the baseline by at most this share (0.05: 5 %).
    """

    max_drop: Annotated[float, Field(ge=0, le=100)] = 1.0
    min_sparse: Annotated[float, Field(ge=0, le=1)] = 0.0
    max_regression: Annotated[float, Field(ge=0, le=10)] = 0.05


class Runner(Strict):
    """A kind of machine that builds. labels: of its self-hosted runner. minutes: limit of one build job.

    tensorrt: as scripts/install_device.sh --tensorrt takes it.
    """

    labels: Annotated[tuple[Label, ...], Field(min_length=1)]
    minutes: Annotated[int, Field(ge=1, le=LONGEST_JOB_MINUTES)] = 90
    tensorrt: TensorRt = "system"


class Engine(Strict):
    """One model for some targets. settings: as --set takes them. gates: those that differ from [gates]."""

    name: Name
    recipe: Annotated[str, StringConstraints(min_length=1)]
    targets: Annotated[tuple[str, ...], Field(min_length=1)]
    settings: tuple[Setting, ...] = ()
    data: str = ""
    gates: dict[Literal["max_drop", "min_sparse", "max_regression"], float] = Field(default_factory=dict)


class EngineMatrix(Strict):
    """The whole file."""

    schema_version: Literal[1]
    runners: Annotated[dict[Name, Runner], Field(min_length=1)]
    gates: Gates = Gates()
    engine: Annotated[tuple[Engine, ...], Field(min_length=1)]

    def gates_of(self, engine: Engine) -> Gates:
        """The limits that hold for one engine."""
        return Gates.model_validate({**self.gates.model_dump(), **engine.gates})


def load_matrix(path: Path) -> EngineMatrix:
    """Read and check a matrix file. Raises RecipeError naming file and key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"engine matrix {path} cannot be read", got=str(error), do="name a TOML file") from error
    return parse_matrix(text, str(path))


def parse_matrix(text: str, name: str) -> EngineMatrix:
    """Check the text of a matrix file; `name` stands in messages for the file."""
    try:
        matrix = EngineMatrix.model_validate(_as_tuples(tomllib.loads(text)), strict=True)
        for engine in matrix.engine:
            matrix.gates_of(engine)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{name} is not valid TOML", got=str(error), do="mend the line it names") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise RecipeError(
            f"{name}: key {key}: {first['msg'].lower()}", got=repr(first["input"])[:80], do="correct it"
        ) from error
    _check_names(matrix, name)
    return matrix


def _as_tuples(value: Any) -> Any:
    """TOML's lists as tuples, since strict fields take no lists."""
    if isinstance(value, dict):
        return {key: _as_tuples(entry) for key, entry in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _check_names(matrix: EngineMatrix, name: str) -> None:
    """Names appear once; each target is a GPU that gpusq knows and has a runner."""
    from gpusq.targets import load_target

    seen: set[str] = set()
    for engine in matrix.engine:
        if engine.name in seen or len(set(engine.targets)) != len(engine.targets):
            raise RecipeError(f"{name}: an engine or a target is named twice", got=engine.name, do="rename one")
        seen.add(engine.name)
        for target in engine.targets:
            if not load_target(target).is_gpu:
                raise RecipeError(f"{name}: [[engine]] targets are GPUs", got=target, do="remove it")
            runner_of(matrix, target, name)


def runner_of(matrix: EngineMatrix, target: str, name: str = "engine matrix") -> Runner:
    """The runner of a target: of its own name, else of its family ("agx-orin" for "agx-orin-32gb@30W")."""
    from gpusq.targets import load_target

    for key in (folder_of(target), load_target(target).family):
        if key in matrix.runners:
            return matrix.runners[key]
    raise RecipeError(
        f"{name}: no [runners.*] for target {target}",
        got=", ".join(matrix.runners),
        do=f"add [runners.{load_target(target).family}]",
    )


def prepare_jobs(matrix: EngineMatrix) -> dict[str, Any]:
    """GitHub's matrix of the jobs on hosted runners, one for each engine."""
    return {
        "include": [
            {
                "name": engine.name,
                "recipe": engine.recipe,
                "data": engine.data,
                "settings": list(engine.settings),
                "targets": list(engine.targets),
            }
            for engine in matrix.engine
        ]
    }


def build_jobs(matrix: EngineMatrix) -> dict[str, Any]:
    """GitHub's matrix of the jobs on self-hosted runners, one for each engine and target.

    id names the job, its receipt and its uploads. target: the full name ("a100" in the file is "a100-40gb"), as bundles
    and receipts have it; folder: the same as a folder's name. max_drop and so on: limits that its receipt is held to.
    """
    return {"include": [_build_job(matrix, engine, target) for engine in matrix.engine for target in engine.targets]}


def _build_job(matrix: EngineMatrix, engine: Engine, named: str) -> dict[str, Any]:
    from gpusq.targets import load_target

    runner, target = runner_of(matrix, named), load_target(named).name
    return {
        "id": job_id(engine.name, named),
        "name": engine.name,
        "target": target,
        "folder": folder_of(target),
        "runs_on": list(runner.labels),
        "minutes": runner.minutes,
        "tensorrt": runner.tensorrt,
        **matrix.gates_of(engine).model_dump(),
    }


def folder_of(target: str) -> str:
    """ "agx-orin-64gb@30W" -> "agx-orin-64gb-30w"."""
    return target.lower().replace("@", "-")


def job_id(name: str, target: str) -> str:
    """ "vit", "agx-orin@30W" -> "vit-agx-orin-30w"."""
    return f"{name}-{folder_of(target)}"
