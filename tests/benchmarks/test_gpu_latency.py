"""The GPU latency benchmark as far as a CPU can: a pretended device, the held-out half, the page, saying "not run"."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu_latency as script
from benchmarks import predict_speed
from gpusq.errors import EngineError
from gpusq.latency.fit import predicted_us
from gpusq.latency.gemm import speed_of
from gpusq.latency.onnx_workload import read_onnx
from gpusq.latency.points import EncoderPoint, GemmPoint, measured_of
from gpusq.latency.table import answer_all, read_questions
from gpusq.targets import load_target


class Slow:
    """An H200 that reaches two thirds of what its target file says; the noise is part of the shape, so it repeats."""

    target = load_target("h200")

    def conditions(self) -> dict[str, str]:
        return {"device": "pretended H200", "driver": "none"}

    def gemm(self, dtype: str, sparsity: str, shape: tuple[int, int, int]) -> Callable[[], float]:
        fit = self.target.fit_of(dtype, sparsity)
        slower = {name: getattr(fit, name) / 1.5 for name in ("compute_efficiency", "memory_efficiency")}
        one = measured_of([GemmPoint(dtype, sparsity, *shape, 1.0)])
        us = float(predicted_us(one.gemms, speed_of(self.target, dtype, sparsity), fit.model_copy(update=slower))[0])
        noise = math.exp(np.random.default_rng(sum(shape)).normal(0, 0.02))
        return lambda: us * noise

    def encoder(self, dtype: str, sparsity: str, sizes: tuple[int, ...]) -> Callable[[], float]:
        return lambda: 1.4 * script.encoder_us(EncoderPoint(dtype, sparsity, sizes, 1.0), self.target)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer shapes: the logic is the same."""
    monkeypatch.setattr(script, "SHAPES", script.SHAPES[:20])
    monkeypatch.setattr(script, "ENCODERS", {"small": (2, 768, 12, 3072, 197)})
    monkeypatch.setattr(script, "BATCHES", (1, 8, 64))


@pytest.mark.usefixtures("small")
def test_a_pretended_device_is_measured_fitted_and_stated(tmp_path: Path) -> None:
    options = script.arguments(["--out", str(tmp_path / "r.json"), "--seconds", "0.001"])
    content = script.run(options, Slow())
    assert load_target(str(tmp_path / "r.toml")).name == "h200-calibrated"
    gemms = [entry for entry in content["summary"] if not entry["path"].startswith("encoder")]
    assert {entry["path"] for entry in gemms} == {
        f"{d}/{s}" for d in ("fp16", "bf16", "int8") for s in ("dense", "2:4")
    }
    for entry in gemms:
        assert entry["held_out"] == entry["rows"] // 2
        assert entry["after"] < min(0.1, entry["before"])
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["conditions"]["device"] == "pretended H200"
    page = (tmp_path / "r.md").read_text(encoding="utf-8")
    assert "pretended H200" in page
    assert "int8/2:4" in page
    assert (tmp_path / "r.svg").read_text(encoding="utf-8").startswith("<svg")


def test_the_error_is_that_of_unseen_rows_only() -> None:
    rows = [
        script._row("p", "a", 10.0, 20.0, 99.0, 90.0, 110.0, seen=True),
        script._row("p", "b", 10.0, 20.0, 11.0, 9.0, 12.0, seen=False),
        script._row("p", "c", 10.0, 5.0, 13.0, 12.0, 14.0, seen=False),
    ]
    (entry,) = script.summary(rows)
    assert (entry["rows"], entry["held_out"], entry["inside"]) == (3, 2, 0.5)
    assert entry["after"] == pytest.approx(0.2)
    assert entry["before"] == pytest.approx(0.75)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise EngineError("calibrate measures on a CUDA device", got="none")

    monkeypatch.setattr(script, "cuda_device", refuse)


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_nothing_is_written_unless_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.main(["--out", str(tmp_path / "r.json")])
    assert "not run" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    script.main(["--out", str(tmp_path / "r.json"), "--write-not-run"])
    assert "not run: no GPU at hand" in (tmp_path / "r.md").read_text(encoding="utf-8")
    assert not (tmp_path / "r.json").exists()


def test_the_committed_page_does_not_pretend() -> None:
    page = script.RESULT.with_suffix(".md").read_text(encoding="utf-8")
    assert script.RESULT.exists() or page == script.not_run_page()


def test_the_speed_benchmark_does_what_it_says(tmp_path: Path) -> None:
    assert predict_speed.whole_model() == 30
    found = read_onnx(predict_speed.write_vit_b(tmp_path / "v.onnx", layers=1))
    assert [len(x) for x in ([o for o in found.workload.ops if o.kind == k] for k in ("gemm", "bmm"))] == [6, 2]
    questions = read_questions(predict_speed.write_table(tmp_path / "t.csv", rows=40))
    assert len({(q.device, q.dtype, q.sparsity, q.sizes) for q in questions}) == len(answer_all(questions)) == 40
