"""What earns its place on rows not seen: two priors, few rows, and the name of the device that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpusq.latency.calibrate import ENGINE, OWN_PRIOR, TEXTBOOK_PRIOR, calibrated, write_target
from gpusq.latency.fit import fit_gemms, predicted_us
from gpusq.latency.gemm import speed_of
from gpusq.latency.held_out import FEWEST, Fitter, Split, held_out_split, mape
from gpusq.latency.points import GemmPoint, Points, is_named, measured_of, read_points
from gpusq.targets import Fit, Target, load_target

ROWS = Path(__file__).parent / "a100_rows.csv"
FIXTURE = read_points(ROWS, load_target("a100-80gb-pcie"))
PARAMETERS = ("t0_us", "compute_efficiency", "memory_efficiency", "cache_efficiency", "k_latency_us", "sharpness")


def split_of(target: Target, rows: Sequence[GemmPoint], holdout: float, priors: Sequence[str]) -> Split:
    """The split of one path with these priors only: with one, what calibration was before it tried two."""
    dtype, sparsity = rows[0].dtype, rows[0].sparsity
    speed, start = speed_of(target, dtype, sparsity), target.fit_of(dtype, sparsity)
    every: dict[str, Fitter] = {
        OWN_PRIOR: lambda kept: fit_gemms(measured_of(kept), speed, start),
        TEXTBOOK_PRIOR: lambda kept: fit_gemms(measured_of(kept), speed),
    }

    def errors(model: Fit, left: Sequence[GemmPoint]) -> np.ndarray:
        measured = measured_of(left)
        return np.log(predicted_us(measured.gemms, speed, model) / measured.us)

    return held_out_split(rows, holdout, {name: every[name] for name in priors}, errors, start)


def held_out(split: Split) -> float:
    found = mape(split.unseen)
    assert found is not None
    return found


def test_with_a_distant_prior_the_textbook_one_helps_on_recorded_rows() -> None:
    """H100 as the start for A100 rows, ten a path: nowhere worse, on some paths clearly better."""
    target, better = load_target("h100-pcie"), 0
    for rows in FIXTURE.by_path().values():
        few = rows[:: max(1, len(rows) // 10)]
        one = split_of(target, few, 0.0, [OWN_PRIOR])
        two = split_of(target, few, 0.0, [OWN_PRIOR, TEXTBOOK_PRIOR])
        assert held_out(two) <= held_out(one)
        better += held_out(two) < 0.95 * held_out(one)
    assert better >= 1


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(["h100-pcie", "agx-orin", "a100-80gb-pcie"]),
    st.sampled_from(sorted(FIXTURE.by_path())),
    st.sampled_from([0.0, 0.3, 0.5]),
    st.integers(0, 1000),
)
def test_two_priors_are_never_worse_held_out_than_one(name: str, key: str, holdout: float, seed: int) -> None:
    rows, target = FIXTURE.by_path()[key], load_target(name)
    if key not in target.peaks_tops:
        target = load_target("h100-pcie")
    chosen = np.sort(np.random.default_rng(seed).choice(len(rows), min(9, len(rows)), replace=False))
    some = [rows[index] for index in chosen]
    one, two = (split_of(target, some, holdout, p) for p in ([OWN_PRIOR], [OWN_PRIOR, TEXTBOOK_PRIOR]))
    assert two.left == one.left
    assert held_out(two) <= held_out(one)


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=30), st.lists(st.floats(-2, 2), min_size=2, max_size=4))
def test_the_least_held_out_error_is_taken_and_the_start_on_a_tie(rows: list[float], levels: list[float]) -> None:
    """Models are numbers that are predicted as ln; rows are what is measured."""
    start, *others = levels
    fits: dict[str, Fitter] = {str(level): lambda kept, level=level: level for level in others}  # type: ignore[misc]
    found = held_out_split(rows, 0.0, fits, lambda model, left: model - np.array(left), start)
    if len(rows) < FEWEST:
        assert (found.chosen, found.tried, found.told) == (start, {}, None)
        return
    own = held_out(replace(found, unseen=start - np.array(rows)))
    assert found.told == pytest.approx(min([own, *found.tried.values()]))
    assert found.kept_prior == (min(found.tried.values()) >= own)


def test_provenance_says_which_prior_and_what_the_others_did(tmp_path: Path) -> None:
    result = calibrated("h100-pcie", FIXTURE, name="mine")
    assert {path.prior for path in result.paths} >= {TEXTBOOK_PRIOR}
    write_target(result, tmp_path / "mine.toml")
    head, fits = (tmp_path / "mine.toml").read_text(encoding="utf-8"), load_target(str(tmp_path / "mine.toml")).fit
    for path in result.paths:
        assert set(path.tried) == {OWN_PRIOR, TEXTBOOK_PRIOR}
        assert path.held_out == min([path.before, *path.tried.values()])
        for text in (fits[path.key].source, head):
            assert f"fitted from {path.prior}; held-out errors of the fits: " in text
            assert all(f"{100 * error:.1f} % from {name}" in text for name, error in path.tried.items())


@pytest.mark.parametrize(("count", "holdout"), [(1, 0.0), (2, 0.0), (4, 0.5)])
def test_rows_too_few_to_judge_a_fit_change_no_parameter(count: int, holdout: float) -> None:
    target = load_target("h100-pcie")
    rows = FIXTURE.by_path()["bf16/dense"][:count]
    result = calibrated("h100-pcie", replace(FIXTURE, gemms=tuple(rows)), holdout=holdout)
    (path,), before, after = result.paths, target.fit["bf16/dense"], result.file.fits["bf16/dense"]
    assert path.kept_prior
    assert path.held_out is None
    assert [getattr(after, name) for name in PARAMETERS] == [getattr(before, name) for name in PARAMETERS]
    assert after.error_p90 >= before.error_p90
    assert "fewer than 3 rows" in after.source


def test_a_row_as_predicted_leaves_intervals_and_the_word_scaled() -> None:
    target = load_target("a100")
    for dtype, sparsity in (("bf16", "dense"), ("int4", "dense")):
        before = target.fit_of(dtype, sparsity)
        blank = GemmPoint(dtype, sparsity, 512, 512, 512, 1.0)
        us = predicted_us(measured_of([blank]).gemms, speed_of(target, dtype, sparsity), before)
        after = calibrated("a100", Points((replace(blank, us=float(us[0])),))).file.fits[f"{dtype}/{sparsity}"]
        assert (after.bands, after.scaled) == (before.bands, before.scaled)
        assert after.error_p90 == pytest.approx(before.error_p90, abs=1e-4)


@pytest.mark.parametrize(
    ("target", "gpu", "same"),
    [
        ("a100", "A100", True),
        ("a100", "NVIDIA A100-SXM4-80GB", True),
        ("h200", "NVIDIA H200 NVL", True),
        ("h100-pcie", "NVIDIA H100 80GB HBM3", True),
        ("agx-orin@30W", "Jetson Orin", True),
        ("agx-orin", "NVIDIA Jetson AGX Orin Developer Kit", True),
        ("a100", "H100", False),
        ("a100", "NVIDIA A10", False),
        ("agx-orin", "NVIDIA Jetson AGX Thor", False),
        ("h100-pcie", "L4", False),
    ],
)
def test_names_of_gpus_are_told_apart(target: str, gpu: str, same: bool) -> None:
    assert is_named(load_target(target), gpu) is same


def test_rows_of_another_gpu_are_noted_in_result_and_provenance(tmp_path: Path) -> None:
    few = replace(FIXTURE, gemms=FIXTURE.gemms[:4])
    result = calibrated("h100-pcie", few)
    (note,) = result.notes
    assert "A100" in note
    assert "NVIDIA H100 PCIe" in note
    assert result.to_json()["notes"] == [note]
    write_target(result, tmp_path / "mine.toml")
    assert f"# note: {note}" in (tmp_path / "mine.toml").read_text(encoding="utf-8")
    assert all(note in result.file.fits[path.key].source for path in result.paths if path.key != ENGINE)
    assert calibrated("a100-80gb-pcie", few).notes == ()
    unnamed = Points(few.gemms)
    assert calibrated("h100-pcie", unnamed).notes == ()
    here = Points(few.gemms, conditions={"device": "NVIDIA A100-SXM4-40GB"})
    assert "A100-SXM4-40GB" in calibrated("h100-pcie", here).notes[0]
