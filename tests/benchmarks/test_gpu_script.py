"""The GPU benchmark's own logic, on a CPU: tolerances, the INT8 reference, tables, and saying "not run"."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import gpu_training_and_sparse_linear as script
from benchmarks.gpu_training_and_sparse_linear import Product


def test_difference_is_relative_to_the_largest_value() -> None:
    expected = torch.tensor([[1.0, -4.0]])
    assert script.relative_difference(expected, expected) == 0
    assert script.relative_difference(torch.tensor([[1.0, -3.0]]), expected) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="differ"):
        script.relative_difference(expected, expected.t())


@pytest.mark.parametrize("dtype", sorted(script.TOLERANCES))
def test_a_product_holds_within_its_tolerance_only(dtype: str) -> None:
    tolerance = script.TOLERANCES[dtype]
    assert Product("kernel", dtype, 8, 8, tolerance).holds is True
    assert Product("kernel", dtype, 8, 8, tolerance + 1e-6).holds is False
    assert Product("kernel", dtype, 8, 8, None, "why").holds is None


@pytest.mark.parametrize("dtype", sorted(script.DTYPES))
def test_tolerance_passes_rounding_and_catches_a_lost_weight(dtype: str) -> None:
    weight = script.pruned_weight(64, 64, 0)
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    exact = x @ weight.t()
    rounded = (x.to(script.DTYPES[dtype]).float() @ weight.to(script.DTYPES[dtype]).float().t()).to(
        script.DTYPES[dtype]
    )
    assert script.relative_difference(rounded, exact) < script.TOLERANCES[dtype]
    weight[0, int(weight[0].abs().argmax())] = 0
    assert script.relative_difference(x @ weight.t(), exact) > script.TOLERANCES[dtype]


def test_integers_stay_two_of_four() -> None:
    from gpusq.sparsity import check_nm

    weight = script.integers(script.pruned_weight(16, 32, 0))
    assert weight.dtype == torch.int8
    assert int(weight.abs().max()) == 127
    assert check_nm(weight, 2, 4) == 0


def test_table_says_what_holds_and_what_was_not_run() -> None:
    rows = [
        Product("a", "fp16", 8, 4, 1e-4),
        Product("a", "bf16", 8, 4, 1.0),
        Product("b", "int8", 8, 4, None, "no kernel"),
    ]
    lines = script.table([vars(row) for row in rows])
    assert lines[2].endswith("| holds |")
    assert lines[3].endswith("| does not hold |")
    assert lines[4].endswith("| - | 0.0e+00 | not run: no kernel |")


def test_training_is_timed_on_the_same_code() -> None:
    found = script.training("new:deit-test", "fp32", batch=2, steps=2, warmup=1)
    assert found.ms_per_step > 0
    assert (found.batch, found.steps) == (2, 2)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.main(["--out", str(tmp_path / "result.json")])
    assert "not run" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_the_page_says_so_when_asked(tmp_path: Path) -> None:
    script.main(["--out", str(tmp_path / "result.json"), "--write-not-run"])
    page = (tmp_path / "result.md").read_text(encoding="utf-8")
    assert "not run: no GPU at hand" in page
    assert script.COMMAND in page
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize("wrong", [["--batch", "0"], ["--steps", "0"], ["--warmup", "-1"]])
def test_counts_out_of_range_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        script.arguments(wrong)
    assert "at least" in capsys.readouterr().err
