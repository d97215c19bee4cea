"""Sensitivity: losses per block, and layers left out until the whole loses little enough."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gpusq.errors import CheckError, StageOrderError, UsageError
from gpusq.pipeline import compress, keeping
from gpusq.quantization import calibrate, insert, place
from gpusq.stages import Sensitivity
from gpusq.stages.sensitivity import RESULT, sensitivity_notes
from gpusq.stages.sensitivity_scan import FORMS, OUTSIDE, Loss, Switchboard, groups_of, scan
from gpusq.stages.stage import run_stage
from gpusq.workload import Layer
from tests.chain import Chain

QUICK = Sensitivity(images=8, calibration_images=8, max_drop=0.0)


def board_of(costs: dict[str, tuple[float, float]]) -> tuple[Switchboard, Callable[[nn.Module], Loss]]:
    """A board of one Linear a block, and a measure that adds what is sparse (first cost) and INT8 (second)."""
    torch.manual_seed(0)
    module = nn.Sequential(*(nn.Linear(8, 8) for _ in costs))
    layers = [Layer(str(i), "linear", 8, 8) for i in range(len(costs))]
    dense = {layer.name: module[i].weight.detach().clone() for i, layer in enumerate(layers)}
    insert(module, place("inputs", layers))
    calibrate(module, [torch.randn(4, 8)], "max")
    names = list(costs)
    groups = {name: (str(i),) for i, name in enumerate(names)}
    board = Switchboard(module, groups, {n: torch.zeros(8, 8) for n in dense}, frozenset(dense))

    def measure(model: nn.Module) -> Loss:
        points = 0.0
        for index, (sparse, int8) in enumerate(costs.values()):
            layer = model[index]  # type: ignore[index]
            points += sparse * (not layer.weight.any()) + int8 * (layer.input_quantizer.mode == "quantize")
        return Loss(points, points / 100)

    return board, measure


def silent(done: int, total: int, note: str) -> None:
    """A listener that ignores everything."""


def test_each_block_and_form_is_measured_alone_and_the_model_is_put_back() -> None:
    board, measure = board_of({"a": (1.0, 0.1), "b": (0.2, 3.0)})
    before = {n: p.clone() for n, p in board.module.named_parameters()}
    found = scan(board, measure, max_drop=10.0, listen=silent)
    assert found.losses["a"]["sparse"].points == pytest.approx(1.0)
    assert found.losses["b"]["int8"].points == pytest.approx(3.0)
    assert found.losses["b"]["both"].points == pytest.approx(3.2)
    assert found.whole.points == pytest.approx(4.3)
    assert (found.trail, found.keep_dense, found.keep_float, found.reached) == ((), (), (), True)
    assert all(torch.equal(p, before[n]) for n, p in board.module.named_parameters() if n.endswith("weight"))
    assert all(layer.input_quantizer.mode == "off" for layer in board.module)


def test_the_costliest_block_is_left_out_first_and_only_of_what_costs_it() -> None:
    board, measure = board_of({"a": (1.0, 0.1), "b": (0.2, 3.0), "c": (0.0, 0.0)})
    found = scan(board, measure, max_drop=0.5, listen=silent)
    assert [(c.block, c.kept) for c in found.trail] == [("b", "int8"), ("a", "sparse")]
    assert found.trail[-1].loss.points == pytest.approx(0.3)
    assert (found.keep_dense, found.keep_float, found.reached) == (("0",), ("1",), True)


def test_a_limit_that_cannot_be_reached_is_said() -> None:
    board, _ = board_of({"a": (1.0, 1.0)})
    found = scan(board, lambda _: Loss(5.0, 0.5), max_drop=0.5, listen=silent)
    assert not found.reached
    assert len(found.trail) == 2


def test_blocks_that_cost_nothing_alone_stay_although_the_limit_is_out_of_reach() -> None:
    board, measure = board_of({"a": (1.0, 0.0), "b": (-1.0, 0.5), "c": (0.0, -0.5)})
    found = scan(board, lambda module: plus(measure(module), 5.0 * (count_changed(module) > 2)), -2.0, silent)
    assert [(c.block, c.kept) for c in found.trail] == [("a", "sparse"), ("b", "int8")]
    assert (found.keep_dense, found.keep_float, found.reached) == (("0",), ("1",), False)


def plus(loss: Loss, points: float) -> Loss:
    """What blocks cost together beside what each costs alone."""
    return Loss(loss.points + points, loss.error)


def count_changed(module: nn.Module) -> int:
    """How many layers are sparse, and INT8."""
    return sum(int(not x.weight.any()) + (x.input_quantizer.mode == "quantize") for x in module)  # type: ignore


def test_layers_outside_the_blocks_are_one_group_and_prefixes_are_whole_names() -> None:
    layers = [Layer(n, "linear", 4, 4) for n in ("embed", "blocks.1.fc", "blocks.10.fc", "head")]
    wanted = {"embed", "blocks.1.fc", "blocks.10.fc"}
    found = groups_of(("blocks.1", "blocks.10", "blocks.11"), layers, wanted)
    assert found == {"blocks.1": ("blocks.1.fc",), "blocks.10": ("blocks.10.fc",), OUTSIDE: ("embed",)}


@pytest.mark.parametrize("wrong", [{"images": 0}, {"calibration_images": 0}, {"max_drop": -1.0}])
def test_refuses_parameters_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="sensitivity"):
        replace(QUICK, **wrong)


def test_refuses_another_kind_of_artifact(chain: Chain, tmp_path: Path) -> None:
    store = chain.copy(tmp_path / "store")
    with pytest.raises(StageOrderError, match="sensitivity takes"):
        run_stage(QUICK, chain.artifact("prune"), chain.context(store))


def test_on_a_real_model_every_block_has_its_losses_and_the_second_run_reuses(chain: Chain, tmp_path: Path) -> None:
    store = chain.copy(tmp_path / "store")
    dense = store.resolve(chain.artifact("intake").digest)
    done = run_stage(QUICK, dense, chain.context(store))
    result = done.artifact.read_json(RESULT)
    assert all(set(losses) == set(FORMS) for losses in result["blocks"].values())
    assert all(losses["both"]["error"] > 0 for losses in result["blocks"].values())
    assert result["images"] == 8
    assert np.isclose(result["dense"] * 8, round(result["dense"] * 8))
    assert sensitivity_notes(result)[0].startswith("sensitivity (top1, 8 images")
    assert run_stage(QUICK, dense, chain.context(store)).reused


def test_a_choice_of_a_layer_that_is_not_there_is_not_sealed(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = chain.copy(tmp_path / "store")
    own = Sensitivity._result

    def spoiled(self: Sensitivity, *rest: object) -> dict[str, object]:
        return {**own(self, *rest), "keep_dense": ["nobody"]}  # type: ignore[arg-type]

    monkeypatch.setattr(Sensitivity, "_result", spoiled)
    with pytest.raises(CheckError, match="kept layers"):
        run_stage(QUICK, store.resolve(chain.artifact("intake").digest), chain.context(store))


def test_compress_keeps_what_sensitivity_names(chain: Chain, tmp_path: Path) -> None:
    store = chain.copy(tmp_path / "store")
    recipe = replace(chain.recipe, sensitivity=QUICK, targets=("cpu",))
    result = compress(recipe, chain.context(store))
    found = next(s.done.artifact for s in result.steps if s.done.artifact.kind == "sensitivity")
    named = found.read_json(RESULT)
    kept = keeping(recipe, found)
    assert set(named["keep_dense"]) <= set(kept.prune.keep_dense)
    sparse = next(s.done.artifact for s in result.steps if s.done.artifact.kind == "sparse")
    dense_layers = {x["name"] for x in json.loads(sparse.read("layers.json")) if not x["sparse"]}
    assert set(named["keep_dense"]) <= dense_layers
    assert any(note.startswith("sensitivity") for note in result.report.notes)
