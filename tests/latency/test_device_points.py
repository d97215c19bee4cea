"""Measuring: turns, medians, paths that a device lacks, and what stands in the conditions. The device is a stand-in."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpusq.errors import EngineError, MissingExtraError, UsageError
from gpusq.latency.cuda_device import CudaDevice
from gpusq.latency.device_points import (
    LEAST_ROUNDS,
    SHAPES,
    WARMUP,
    measure_encoders,
    measure_for,
    measure_in_turn,
    measure_points,
    rounds_for,
)
from gpusq.targets import load_target


class Pretended:
    """A device whose times follow from the shape; 2:4 INT8 is missing."""

    def __init__(self, lacking: tuple[str, ...] = ("int8/2:4",)) -> None:
        self.lacking = lacking

    def conditions(self) -> dict[str, str]:
        return {"device": "pretended", "driver": "1"}

    def gemm(self, dtype: str, sparsity: str, shape: tuple[int, int, int]) -> Callable[[], float]:
        if f"{dtype}/{sparsity}" in self.lacking:
            raise EngineError("this device runs it", got="no such kernel")
        m, n, k = shape
        return lambda: 5 + m * n * k / (1e8 if sparsity == "dense" else 1.5e8)

    def encoder(self, dtype: str, sparsity: str, sizes: tuple[int, ...]) -> Callable[[], float]:
        if sparsity != "dense":
            raise EngineError("dense only")
        return lambda: float(sum(sizes))


def test_every_path_of_device_and_target_is_measured() -> None:
    found = measure_points(load_target("h200"), seconds=0.01, device=Pretended())
    paths = found.by_path()
    assert set(paths) == {"fp16/dense", "fp16/2:4", "bf16/dense", "bf16/2:4", "int8/dense"}
    assert all(len(rows) == len(SHAPES) for rows in paths.values())
    assert found.conditions["skipped int8/2:4"] == "no such kernel"
    assert "pretended" in found.source


def test_a_device_without_any_path_is_refused() -> None:
    every = tuple(f"{d}/{s}" for d in ("fp16", "bf16", "int8") for s in ("dense", "2:4"))
    with pytest.raises(EngineError, match="no such kernel"):
        measure_points(load_target("h200"), device=Pretended(every))


def test_works_take_turns_and_the_median_counts() -> None:
    order: list[str] = []
    times = {"a": iter([99.0, 1.0, 9.0, 2.0]), "b": iter([99.0, 4.0, 4.0, 4.0])}

    def work(name: str) -> Callable[[], float]:
        def run() -> float:
            order.append(name)
            return next(times[name])

        return run

    assert measure_in_turn({n: work(n) for n in times}, rounds=3, warmup=1) == {"a": 2.0, "b": 4.0}
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]


def test_encoders_that_the_device_has_not_are_left_out() -> None:
    sizes = (2, 64, 1, 256, 10, 1)
    found = measure_encoders(Pretended(), [("fp16", "dense", sizes), ("int8", "2:4", sizes)], seconds=0.01)
    assert [(p.dtype, p.us) for p in found] == [("fp16", 334.0)]


def test_progress_is_told() -> None:
    seen: list[tuple[int, int | None]] = []
    measure_points(
        load_target("h200"),
        seconds=0.01,
        shapes=SHAPES[:2],
        device=Pretended(),
        progress=lambda what, done, total, note: seen.append((done, total)),
    )
    assert seen == [(0, 2), (1, 2), (2, 2)]


class Timer:
    """A clock that only moves when a work runs; a work takes `wall` seconds whatever it returns."""

    def __init__(self) -> None:
        self.now = 0.0
        self.runs = 0

    def __call__(self) -> float:
        return self.now

    def work(self, wall: float, first: float = 0.0) -> Callable[[], float]:
        def run() -> float:
            self.now += wall if self.runs else wall + first
            self.runs += 1
            return 3.0

        return run


@settings(max_examples=30)
@given(st.floats(1e-4, 0.3), st.floats(0.01, 3.0), st.integers(1, 6))
def test_seconds_are_seconds_on_the_clock(wall: float, seconds: float, works: int) -> None:
    timer = Timer()
    measure_for({str(index): timer.work(wall) for index in range(works)}, seconds, timer)
    one = wall * works
    measured = timer.now - WARMUP * one
    assert max(seconds - one, 0) <= measured * (1 + 1e-6) + 1e-9
    assert measured <= max(seconds, LEAST_ROUNDS * one) * (1 + 1e-6)


def test_a_slow_first_call_does_not_cut_the_rounds() -> None:
    timer = Timer()
    measure_for({"a": timer.work(0.01, first=30.0)}, 1.0, timer)
    assert timer.runs in (WARMUP + 99, WARMUP + 100)  # as the sums round


def test_points_and_encoders_take_the_seconds_given() -> None:
    class Ticking(Pretended):
        timer = Timer()

        def gemm(self, dtype: str, sparsity: str, shape: tuple[int, int, int]) -> Callable[[], float]:
            return self.timer.work(0.01)

        def encoder(self, dtype: str, sparsity: str, sizes: tuple[int, ...]) -> Callable[[], float]:
            return self.timer.work(0.01)

    device = Ticking()
    measure_points(
        load_target("h200"),
        seconds=2.0,
        shapes=SHAPES[:3],
        paths=[("fp16", "dense")],
        device=device,
        clock=device.timer,
    )
    assert device.timer.now == pytest.approx(3 * (2.0 + WARMUP * 0.01), abs=0.05)
    device.timer.now = 0.0
    measure_encoders(device, [("fp16", "dense", (2, 64, 1, 256, 10, 1))], seconds=5.0, clock=device.timer)
    assert device.timer.now == pytest.approx(5.0 + WARMUP * 0.01, abs=0.03)


def test_rounds_have_a_least_number_and_no_most() -> None:
    assert rounds_for(0.01, 1.0) == LEAST_ROUNDS
    assert rounds_for(10.0, 0.001) == pytest.approx(10_000, abs=1)
    assert rounds_for(0.001, 0.0) == pytest.approx(1000, abs=1)  # the clock did not see the round


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_a_measuring_time_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(UsageError, match="positive number of seconds"):
        measure_points(load_target("h200"), seconds=seconds, device=Pretended())
    with pytest.raises(UsageError, match="positive number of seconds"):
        measure_encoders(Pretended(), [], seconds=seconds)


def test_without_a_gpu_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match="--csv FILE"):
        CudaDevice()


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "torch":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match="torch"):
        CudaDevice()


def test_the_measured_encoder_is_the_one_that_is_predicted() -> None:
    import torch

    from gpusq.latency import encoder_workload
    from gpusq.latency.torch_encoder import make_encoder
    from gpusq.models import trace_workload

    class Images(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = make_encoder(2, 32, 2, 64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.encoder(x.flatten(2).transpose(1, 2))  # type: ignore[no-any-return]

    traced = trace_workload(Images(), (32, 5, 2))
    formula = encoder_workload(2, 32, 2, 64, 10)
    shapes = [sorted((o.kind, o.m, o.n, o.k, o.count) for o in w.ops if o.macs) for w in (traced, formula)]
    assert shapes[0] == shapes[1]
