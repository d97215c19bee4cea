"""Calibration: a hidden device is found again, real rows help, a file says where it comes from, slips are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpusq.errors import TableError, UsageError
from gpusq.latency.calibrate import calibrated, write_target
from gpusq.latency.device_points import SHAPES
from gpusq.latency.engine_fit import predicted_us as encoder_us
from gpusq.latency.fit import predicted_us
from gpusq.latency.gemm import speed_of
from gpusq.latency.held_out import held_out_split
from gpusq.latency.points import EncoderPoint, GemmPoint, Points, measured_of, read_points
from gpusq.latency.target_toml import target_toml
from gpusq.targets import Target, load_target, read_target_file
from gpusq.targets.target import FAMILIES, parse_target_file

ROWS = Path(__file__).parent / "a100_rows.csv"
HIDDEN = {"compute_efficiency": 0.5, "memory_efficiency": 0.6, "t0_us": 8.0}


def hidden_points(target: Target, key: str, noise: float = 0.02) -> list[GemmPoint]:
    """Rows of a device that differs from `target` by HIDDEN, with a little noise."""
    dtype, sparsity = key.split("/")
    fit = target.fit_of(dtype, sparsity).model_copy(update=HIDDEN)
    blank = [GemmPoint(dtype, sparsity, *shape, 1.0) for shape in SHAPES]
    us = predicted_us(measured_of(blank).gemms, speed_of(target, dtype, sparsity), fit)
    drawn = np.exp(np.random.default_rng(5).normal(0, noise, len(us)))
    return [replace(point, us=float(t)) for point, t in zip(blank, us * drawn, strict=True)]


@pytest.mark.parametrize("key", ["fp16/dense", "int8/dense", "int8/2:4"])
def test_a_hidden_device_is_found_again(key: str) -> None:
    target = load_target("a100-80gb-pcie")
    result = calibrated("a100-80gb-pcie", Points(tuple(hidden_points(target, key))))
    (path,) = result.paths
    assert path.before > 0.15
    assert path.held_out is not None
    assert path.held_out < 0.08
    assert path.held_out < path.before / 2
    assert not path.kept_prior


def test_rows_that_teach_nothing_leave_the_parameters() -> None:
    target = load_target("a100")
    points = hidden_points(target, "fp16/dense")[:4]
    exact = measured_of(points)
    us = predicted_us(exact.gemms, speed_of(target, "fp16", "dense"), target.fit_of("fp16", "dense"))
    wild = [replace(p, us=float(t) * f) for p, t, f in zip(points, us, (1.0, 1.6, 1.0, 0.65), strict=True)]
    result = calibrated("a100", Points(tuple(wild)))
    assert result.paths[0].kept_prior
    fitted, before = result.file.fits["fp16/dense"], target.fit_of("fp16", "dense")
    assert fitted.compute_efficiency == before.compute_efficiency
    assert fitted.error_p90 > before.error_p90  # but the surprise is not forgotten


def test_fit_and_prior_are_compared_on_the_same_held_out_rows() -> None:
    """The prior is exact on the rows of the fit and 50 % off on those held out, where the fit is 40 % off."""
    rows = list(range(8))
    fits = {"own": lambda inside: "fit"}
    fit = held_out_split(rows, 0.5, fits, lambda model, left: off(left, 0.5 if model == "prior" else 0.4), "prior")
    assert (fit.inside, fit.left) == ([0, 2, 4, 6], [1, 3, 5, 7])
    assert (fit.chosen, fit.prior, fit.kept_prior) == ("fit", "own", False)
    prior = held_out_split(rows, 0.5, fits, lambda model, left: off(left, 0.4 if model == "prior" else 0.5), "prior")
    assert (prior.chosen, prior.prior, prior.kept_prior) == ("prior", "", True)
    even = held_out_split(rows, 0.5, fits, lambda model, left: off(left, 0.4), "prior")
    assert even.kept_prior  # as good is not better
    assert prior.left == [1, 3, 5, 7]
    assert prior.unseen.tolist() == [0.4] * 4


def off(rows: Sequence[int], error: float) -> np.ndarray:
    """ln errors: none on even rows, `error` on odd ones."""
    return np.array([error * (row % 2) for row in rows])


@pytest.mark.parametrize("holdout", [0.0, 0.5])
def test_recorded_rows_never_make_a_target_worse(holdout: float) -> None:
    points = read_points(ROWS, load_target("a100-80gb-pcie"))
    for path in calibrated("a100-80gb-pcie", points, holdout=holdout).paths:
        assert path.held_out is not None
        assert path.held_out < 0.12
        assert path.held_out < path.before + 0.02  # those not in the fit, against all


def test_ten_rows_bring_a_distant_device_near() -> None:
    """H100 parameters on A100 rows are off by a third; ten rows a path mend most of it."""
    every = read_points(ROWS, load_target("a100-80gb-pcie")).by_path()
    few = tuple(row for rows in every.values() for row in rows[:: max(1, len(rows) // 10)])
    result = calibrated("h100-pcie", Points(few))
    before = np.mean([path.before for path in result.paths])
    after = np.mean([path.held_out for path in result.paths if path.held_out is not None])
    assert after < before / 2


def test_the_file_loads_and_says_where_it_comes_from(tmp_path: Path) -> None:
    points = read_points(ROWS, load_target("a100-80gb-pcie"))
    result = calibrated("a100-80gb-pcie", points, name="my-a100")
    path = tmp_path / "my.toml"
    write_target(result, path)
    target = load_target(str(path))
    assert target.name == "my-a100"
    assert target.fit == result.file.fits
    assert target.bandwidth_gbs == load_target("a100-80gb-pcie").bandwidth_gbs
    source = target.fit["int8/2:4"].source
    for word in (ROWS.name, points.sha256[:12], "held-out error", "calibrated 20"):
        assert word in source
    head = path.read_text(encoding="utf-8")
    assert points.sha256 in head
    assert "held out" in head
    assert target.fit["fp32/dense"] == load_target("a100-80gb-pcie").fit["fp32/dense"]  # not measured, not touched


def test_a_power_mode_stays_the_mode_of_the_file(tmp_path: Path) -> None:
    target = load_target("agx-orin-64gb@30W")
    write_target(calibrated("agx-orin-64gb@30W", Points(tuple(hidden_points(target, "int8/2:4")))), tmp_path / "o.toml")
    found = load_target(str(tmp_path / "o.toml"))
    assert (found.power_mode, found.peak("int8")) == ("30W", target.peak("int8"))
    assert load_target(f"{tmp_path / 'o.toml'}@MAXN").peak("int8") > found.peak("int8")


def test_a_calibrated_file_can_be_calibrated_again(tmp_path: Path) -> None:
    points = Points(tuple(hidden_points(load_target("h200"), "fp16/dense")))
    write_target(calibrated("h200", points), tmp_path / "one.toml")
    again = calibrated(str(tmp_path / "one.toml"), points, name="two")
    assert again.file.default == "two"
    assert again.paths[0].before < 0.1


def test_whole_encoders_refit_the_engine() -> None:
    target = load_target("h200")
    engine = target.engine.model_copy(update={"start_us": 5.0, "kernel_us": 2.0, "attention_efficiency": 0.35})
    hidden = target.model_copy(update={"engine": engine})
    blank = [
        EncoderPoint("fp16", "dense", (layers, width, width // 64, 4 * width, 197, batch), 1.0)
        for layers, width in ((4, 768), (6, 1024))
        for batch in (1, 4, 16, 64)
    ]
    rows = tuple(replace(point, us=encoder_us(point, hidden)) for point in blank)
    result = calibrated("h200", Points((), rows))
    (path,) = result.paths
    assert path.key == "engine"
    assert path.before > 0.2
    assert path.fitted < 0.08
    assert result.file.engine.source.startswith("calibrated")
    assert result.file.fits == target.fit


def test_encoder_rows_come_from_the_same_csv(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text(
        "gpu,kind,dtype,sparsity,m,n,k,layers,width,heads,mlp,tokens,batch,latency_us\n"
        "H200,gemm,INT8,2:4,64,64,64,,,,,,,5.5\nH200,encoder,fp16,dense,,,,2,64,1,256,10,4,90\n"
    )
    points = read_points(path, load_target("h200"))
    assert points.gemms == (GemmPoint("int8", "2:4", 64, 64, 64, 5.5),)
    assert points.encoders == (EncoderPoint("fp16", "dense", (2, 64, 1, 256, 10, 4), 90.0),)
    result = calibrated("h200", points)
    assert [found.key for found in result.paths] == ["int8/2:4", "engine"]
    assert result.file.engine.source != load_target("h200").engine.source


@pytest.mark.parametrize("family", FAMILIES)
def test_target_files_survive_the_round_trip(family: str) -> None:
    import gpusq.targets

    path = Path(gpusq.targets.__file__).parent / f"{family}.toml"
    file = read_target_file(path)
    assert parse_target_file(target_toml(file, ["a comment\nof two lines"]), "text") == file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu,dtype,sparsity,m,n,k,latency_us\n", "at least one row"),
        ("gpu,dtype,sparsity,m,n,k,latency_us\nx,fp16,dense,1,2,4,-3\n", "line 2, column latency_us"),
        ("gpu,dtype,sparsity,m,n,k,latency_us\nx,fp16,dense,1,2,4,inf\n", "line 2, column latency_us"),
        ("gpu,dtype,sparsity,m,n,k\nx,fp16,dense,1,2,4\n", "has a column latency_us"),
        ("gpu,dtype,sparsity,m,n,k,latency_us\nx,half,dense,1,2,4,3\n", "line 2, column dtype"),
        ("gpu,dtype,sparsity,m,n,k,latency_us\nB1,fp16,dense,1,2,4,3\nB2,fp16,dense,1,2,4,3\n", "one GPU"),
    ],
)
def test_slips_in_measured_rows_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "points.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TableError, match=message):
        read_points(path, load_target("a100"))


def test_what_cannot_be_fitted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="measured rows"):
        calibrated("a100", Points(()))
    with pytest.raises(UsageError, match="fp8"):
        calibrated("a100", Points((GemmPoint("fp8", "dense", 8, 8, 8, 3.0),)))
    result = calibrated("a100", Points((GemmPoint("fp16", "dense", 64, 64, 64, 5.0),)))
    with pytest.raises(UsageError, match=r"\.toml"):
        write_target(result, tmp_path / "target.txt")
