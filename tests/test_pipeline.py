"""The whole chain: what it makes, what it reuses, what it reports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gpusq.artifacts import Store
from gpusq.errors import UnknownTargetError
from gpusq.recipe import apply_settings
from tests.chain import Chain, image_folder, recipe_of, run_chain, tree

ORDER = ["intake", "prune", "qat", "export", "export", *["build"] * 6]


def test_every_stage_is_there_in_order(chain: Chain) -> None:
    steps = chain.result.steps
    assert [s.done.artifact.manifest.stage for s in steps] == ORDER
    assert not any(s.done.reused for s in steps)
    kinds = [s.done.artifact.kind for s in steps]
    assert kinds == ["dense", "sparse", "quantized", "onnx", "onnx", *["engine"] * 2, *["bundle"] * 4]


def test_the_store_is_whole_after_a_run(chain: Chain) -> None:
    assert set(map(tuple, Store(chain.root).verify_all().values())) == {()}
    assert not any((chain.root / "staging").iterdir())
    assert not any((chain.root / "checkpoints").iterdir())


def test_the_second_run_reuses_everything_and_measures_nothing(chain: Chain, tmp_path: Path) -> None:
    chain.copy(tmp_path / "store")
    before = tree(tmp_path / "store")
    notes: list[str] = []
    again = run_chain(tmp_path / "store", chain.recipe, progress=lambda what, *_: notes.append(what))
    assert all(s.done.reused for s in again.steps)
    assert notes == ORDER, "each stage is named as reused, and nothing else is done"
    assert {k: v for k, v in tree(tmp_path / "store").items() if "runs/" not in k} == {
        k: v for k, v in before.items() if "runs/" not in k
    }
    old = [r.model_dump(exclude={"conditions"}) for r in chain.result.report.rows]
    assert [r.model_dump(exclude={"conditions"}) for r in again.report.rows] == old


def test_a_changed_qat_parameter_reuses_prune_and_rebuilds_the_rest(chain: Chain, tmp_path: Path) -> None:
    chain.copy(tmp_path / "store")
    changed = replace(apply_settings(chain.recipe, ["qat.calibrator=percentile"]), targets=("cpu", "a100"))
    steps = run_chain(tmp_path / "store", changed).steps
    reused = [(s.role, s.done.artifact.manifest.stage) for s in steps if s.done.reused]
    made = [(s.role, s.done.artifact.manifest.stage) for s in steps if not s.done.reused]
    twin = [("dense twin", "export"), ("dense twin", "build"), ("dense twin", "build")]
    assert reused == [("model", "intake"), ("model", "prune"), *twin]
    assert made == [("model", "qat"), ("model", "export"), ("model", "build"), ("model", "build")]


def test_rows_for_every_stage_target_and_batch(chain: Chain) -> None:
    rows = chain.result.report.rows
    for target in ("cpu", "a100-40gb", "agx-orin-64gb"):
        mine = [r for r in rows if r.target == target]
        assert {r.batch for r in mine} == {1, 8, 32}
        stages = {(r.artifact.stage, r.artifact.variant) for r in mine}
        base = "fp32" if target == "cpu" else "fp16"
        assert stages == {
            ("intake", f"dense-{base}"),
            ("prune", f"sparse-{base}"),
            ("qat", "sparse-int8"),
            ("export", f"dense-{base}"),
            ("export", "sparse-int8"),
            ("build", f"dense-{base}"),
            ("build", "sparse-int8"),
        }
        assert {v.target for v in chain.result.report.verdicts} >= {target}
    assert all(r.status == ("measured" if r.artifact.kind == "engine" else "predicted") for r in rows)
    assert all(r.accuracy is not None for r in rows)


def test_the_lineage_names_parents_before_children(chain: Chain) -> None:
    seen: set[str] = set()
    for entry in chain.result.report.lineage:
        assert set(entry.parents) <= seen
        seen.add(entry.digest)
    assert seen == {s.done.artifact.digest for s in chain.result.steps}


def test_the_kept_report_is_the_report(chain: Chain) -> None:
    from gpusq.runs import read_report

    assert read_report("latest", chain.root) == chain.result.report


def test_an_unknown_target_is_refused_before_any_work(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(UnknownTargetError, match="a100"):
        run_chain(tmp_path / "store", replace(chain.recipe, targets=("cpu", "a10")))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("model", ["deit-test", "dinov2-test", pytest.param("swin-test", marks=pytest.mark.slow)])
def test_other_families_go_through(model: str, tmp_path: Path) -> None:
    images = image_folder(tmp_path / "images")
    result = run_chain(tmp_path / "store", recipe_of(f"new:{model}", images))
    rows = [r for r in result.report.rows if r.artifact.kind == "engine" and r.artifact.variant == "sparse-int8"]
    assert len(rows) == 3
    assert sum(e.share for e in rows[0].coverage.dense) + rows[0].coverage.sparse == pytest.approx(1)
