"""What run_stage does around every stage: order, key, reuse, staging, checks, publish; resumed training."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpusq.artifacts import Artifact, Store
from gpusq.errors import ArtifactError, CheckError, StageOrderError, TamperedArtifactError, UsageError
from gpusq.stages import Build, Export, Intake, Prune, Qat, Train
from gpusq.stages.processes import Processes
from gpusq.stages.stage import Context, Stage, parameter, run_stage, toolchain
from tests.chain import Chain, run_chain, tree

ALL = (Intake, Train, Prune, Qat, Export, Build)
SMALL = {"batch_size": 16, "calibration_images": 16}


@dataclass(frozen=True)
class Count(Stage):
    """A stage that writes its numbers; `good` decides whether the check passes."""

    name: ClassVar[str] = "count"
    runs: ClassVar[list[int]] = []

    upto: int = parameter(3, "last number")
    good: bool = parameter(True, "whether the check passes", key=False)

    def gives(self, parent: Artifact | None) -> str:
        return "dense"

    def run(self, parent: Artifact | None, out: Path, context: Context) -> dict[str, Any]:
        self.runs.append(self.upto)
        (out / "numbers.txt").write_text(" ".join(map(str, range(self.upto))))
        return {"count": self.upto}

    def ensures(self, parent: Artifact | None, out: Path, context: Context) -> None:
        if not self.good:
            raise CheckError("count: must be good")


@dataclass(frozen=True)
class After(Count):
    """The next stage."""

    name: ClassVar[str] = "after"
    takes: ClassVar[tuple[str, ...]] = ("sparse",)


def test_made_once_and_then_reused(tmp_path: Path) -> None:
    context = Context(Store(tmp_path / "store"))
    Count.runs.clear()
    first, again, other = (run_stage(Count(n), None, context) for n in (3, 3, 4))
    assert (first.reused, again.reused, other.reused) == (False, True, False)
    assert Count.runs == [3, 4]
    assert again.artifact.digest == first.artifact.digest != other.artifact.digest
    manifest = first.artifact.manifest
    assert (manifest.stage, manifest.kind, manifest.facts, manifest.params) == (
        "count",
        "dense",
        {"count": 3},
        {"upto": 3},
    )


def test_a_failed_check_seals_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    run_stage(Count(1), None, Context(store))
    before = tree(store.root)
    with pytest.raises(CheckError):
        run_stage(Count(5, good=False), None, Context(store))
    assert tree(store.root) == before
    assert not run_stage(Count(5), None, Context(store)).reused, "what decides no result is in no key"


def test_a_parent_of_the_wrong_kind(tmp_path: Path) -> None:
    context = Context(Store(tmp_path / "store"))
    dense = run_stage(Count(1), None, context).artifact
    for parent, got in ((dense, "dense"), (None, "nothing")):
        with pytest.raises(StageOrderError, match=f"after takes an artifact of kind sparse; got {got}"):
            run_stage(After(), parent, context)
    with pytest.raises(StageOrderError, match="count takes an artifact of kind no parent"):
        run_stage(Count(2), dense, context)


@dataclass(frozen=True)
class Silent(Stage):
    """A stage that forgot everything."""

    name: ClassVar[str] = "silent"


def test_a_stage_that_forgot_its_part(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="Silent does no work"):
        run_stage(Silent(), None, Context(Store(tmp_path / "store")))


def test_facts_that_cannot_be_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Count, "run", lambda *_: {"path": object()})
    store = Store(tmp_path / "store")
    with pytest.raises(ArtifactError):
        run_stage(Count(1), None, Context(store))
    assert store.artifacts() == []


@pytest.mark.parametrize("kind", ALL, ids=lambda k: k.name)
def test_every_parameter_says_what_it_is_and_enters_the_key_or_not(kind: type[Stage]) -> None:
    params = kind().key_params()
    for field in fields(kind):
        assert field.metadata["help"]
        assert (field.name in params) == field.metadata["key"]
    assert hashlib.sha256(repr(params).encode()).hexdigest()


@given(
    st.sampled_from(["epochs", "learning_rate", "weight_decay", "warmup", "clip", "alpha", "beta", "gamma"]), st.data()
)
def test_numbers_out_of_range(name: str, data: st.DataObject) -> None:
    bad = data.draw(st.floats(max_value=-1e-9) | st.sampled_from([float("nan"), float("inf")]))
    for kind in (Prune, Qat):
        with pytest.raises(UsageError, match=name):
            kind(**{name: bad})


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Prune, {"calibration_images": 0}),
        (Qat, {"calibration_images": 0}),
        (Train, {"batch_size": 0}),
        (Qat, {"temperature": 0.0}),
        (Export, {"samples": 0}),
        (Export, {"parity_images": 0}),
        (Build, {"max_batch": 0}),
    ],
)
def test_counts_below_one(kind: type[Stage], values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(values))):
        kind(**values)


def test_versions_enter_the_key() -> None:
    found = toolchain(("torch", "no-such-distribution"))
    assert found["no-such-distribution"] == "absent"
    assert found["torch"][0].isdigit()
    assert set(found) == {"gpusq", "torch", "no-such-distribution"}


def test_only_rank_zero_is_the_main_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Processes.from_environment() == Processes(0, 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert Processes.from_environment() == Processes(1, 2)
    assert not Processes.from_environment().main


@pytest.mark.parametrize(("kind", "parent"), [(Prune, "intake"), (Qat, "prune")])
def test_interrupted_training_goes_on_from_its_checkpoint(
    chain: Chain, tmp_path: Path, kind: type[Any], parent: str
) -> None:
    """Stopped at step 3 of 4: the second attempt makes only the rest, and the bits are those of one attempt."""
    stage = kind(epochs=1.0, checkpoint_every=1, seed=9, **SMALL)
    whole = run_stage(stage, chain.artifact(parent), chain.context(chain.copy(tmp_path / "whole"))).artifact
    store = chain.copy(tmp_path / "store")

    def stop(what: str, done: int, *_: Any) -> None:
        if what.endswith("training") and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(stage, chain.artifact(parent), chain.context(store, progress=stop))
    assert any((store.root / "checkpoints").glob("*/step-*"))
    steps: list[int] = []

    def watch(what: str, done: int, *_: Any) -> None:
        if what.endswith("training"):
            steps.append(done)

    made = run_stage(stage, chain.artifact(parent), chain.context(store, progress=watch)).artifact
    assert made.digest == whole.digest
    assert min(steps) >= 3
    assert not any((store.root / "checkpoints").iterdir())


def test_qat_of_a_dense_model_and_without_training(chain: Chain, tmp_path: Path) -> None:
    store = chain.copy(tmp_path / "store")
    stage = Qat(epochs=0.0, calibration_images=16, policy="sparse-epilogue+attention")
    made = run_stage(stage, chain.artifact("intake"), chain.context(store)).artifact
    roles = {s["role"] for s in made.read_json("quantizers.json")}
    assert {"weight", "input", "q", "k", "v"} <= roles
    assert "masks.safetensors" not in made.manifest.files
    assert made.read("weights.safetensors") == chain.artifact("intake").read("weights.safetensors")


def test_keep_dense_and_also_prune_are_listed_with_their_reason(chain: Chain, tmp_path: Path) -> None:
    stage = Prune(epochs=0.0, score="magnitude", keep_dense=("*layers.0*",), also_prune=("*classifier",))
    made = run_stage(stage, chain.artifact("intake"), chain.context(chain.copy(tmp_path / "s"), data=None)).artifact
    layers = {x["name"]: x["why_dense"] for x in made.read_json("layers.json")}
    assert {n for n, why in layers.items() if why} == {n for n in layers if "layers.0" in n}
    assert all("by request" in why for n, why in layers.items() if "layers.0" in n)
    assert "prune_loss.json" not in made.manifest.files
    assert made.manifest.inputs == {}


def test_a_parent_s_place_counts_nothing(chain: Chain, tmp_path: Path) -> None:
    """The same artifact opened from another store gives the same key."""
    moved = chain.copy(tmp_path / "elsewhere" / "store")
    parent = moved.resolve(chain.artifact("intake").digest)
    again = run_stage(replace(chain.recipe.prune), parent, chain.context(moved))
    assert again.reused


def test_an_artifact_with_changed_bytes_is_not_used_again(chain: Chain, tmp_path: Path) -> None:
    chain.copy(tmp_path / "store")
    (sparse,) = (tmp_path / "store" / "artifacts").glob("sparse-*")
    weights = sparse / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(TamperedArtifactError, match=r"weights\.safetensors"):
        run_chain(tmp_path / "store", chain.recipe)
