"""From bundle to sealed engine: real builds with TensorRT-RTX; what needs a device runs on a stand-in for one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpusq.artifacts import open_artifact
from gpusq.errors import CheckError, EngineError, ParityError, StageOrderError, UsageError
from gpusq.finishing import FinishOptions, Receipt, finish, read_receipt
from gpusq.latency.clocks import Reading
from tests.engines.fake_device import FakeGpu
from tests.finishing.small import Pair, machine_with, machine_without_gpu, make_pair

trt = pytest.importorskip("tensorrt_rtx", reason="the rtx extra builds real engines without a GPU")


def options(tmp_path: Path, **changes: Any) -> FinishOptions:
    given = {"out": tmp_path / "engine", "builder": "tensorrt-rtx", "seconds": 0.02}
    return FinishOptions(**given | changes)


def test_without_a_gpu_real_engines_are_built_and_sealed_and_nothing_is_called_measured(
    pair: Pair, tmp_path: Path
) -> None:
    asked = options(tmp_path, receipt=tmp_path / "receipt.json")
    finished = finish(pair.model.path, asked, machine_without_gpu(trt))
    assert set(finished.engines) == {"model", "dense twin"}
    for role, bundle in (("model", pair.model), ("dense twin", pair.twin)):
        engine = open_artifact(finished.engines[role].path)
        assert engine.verify() == []
        assert (engine.kind, engine.manifest.target) == ("engine", "a100-40gb")
        assert [parent.digest for parent in engine.manifest.parents] == [bundle.digest]
        facts = engine.read_json("engine.json")
        assert facts["place"]["capabilities"] == ["8.0"]
        assert facts["place"]["library"] == trt.__version__
        assert facts["stand_in"] == ""
        assert len(engine.read("engine.plan")) == facts["plan_bytes"] > 10_000
        receipt = engine.read_json("receipt.json")
        assert receipt["status"].startswith("not run: no GPU")
        assert (receipt["gate"], receipt["measurements"]) == (None, [])
        assert engine.read("samples.safetensors") == bundle.read("samples.safetensors")
    kept = read_receipt(tmp_path / "receipt.json")
    assert kept == finished.receipt
    assert kept.status == "not run: no GPU (cudaErrorInsufficientDriver)"
    assert (kept.rows, kept.verdicts, kept.measurements) == ((), (), ())
    assert {engine.bundle for engine in kept.engines} == {pair.model.digest, pair.twin.digest}
    assert open_artifact(pair.model.path).verify() == []  # the bundle stays as it was


def test_an_orin_bundle_gives_a_stand_in_that_says_so(tmp_path: Path) -> None:
    pair = make_pair(tmp_path / "store", "agx-orin")
    finished = finish(pair.model.path, options(tmp_path), machine_without_gpu(trt))
    engine = finished.engines["model"]
    facts = engine.read_json("engine.json")
    assert facts["place"]["capabilities"] == ["8.6"]
    for text in (facts["stand_in"], engine.manifest.facts["stand_in"], finished.receipt.engines[0].stand_in):
        assert "stand-in for compute capability 8.6" in text
        assert "8.7" in text
        assert "not an engine of agx-orin-64gb" in text


def test_on_a_device_outputs_are_compared_and_both_are_measured_in_turn(pair: Pair, tmp_path: Path) -> None:
    gpu = FakeGpu()
    finished = finish(pair.model.path, options(tmp_path), machine_with(trt, gpu, pair.plans(layers={"fc1": 0.2})))
    receipt = finished.receipt
    assert receipt.status == "measured"
    assert [(row.artifact.variant, row.batch) for row in receipt.rows] == [
        (variant, batch) for variant in ("sparse-int8", "dense-fp16") for batch in (1, 8, 32)
    ]
    for row in receipt.rows:
        expected_ms = row.batch * (0.5 if row.artifact.variant == "sparse-int8" else 1.0)
        assert row.latency_ms.p50 == pytest.approx(expected_ms, rel=1e-6)
        assert row.conditions.device == "Fake A100"
        assert row.conditions.throttled is None  # nothing there to tell
        assert row.accuracy is None  # the device has no labelled images
        assert "CUDA graph" in row.note
        assert "at 4 streams" in row.note
    for engine in receipt.engines:
        assert engine.gate is not None
        assert engine.gate["passed"] is True
        assert engine.gate["figures"]["top1_agreement"] == 1.0
    assert {row.artifact.digest for row in receipt.rows} == {e.digest for e in finished.engines.values()}
    assert [verdict["decision"] for verdict in receipt.verdicts] == ["undecided"]  # faster, but accuracy is unknown
    assert receipt.verdicts[0]["speedup"]["point"] == pytest.approx(2.0)
    assert (gpu.memory, gpu.graphs, gpu.streams, gpu.events) == ({}, {}, set(), {})


def test_no_gain_is_do_not_ship(pair: Pair, tmp_path: Path) -> None:
    plans = pair.plans(lambda batch: 1.1 * batch, lambda batch: 1.0 * batch)
    finished = finish(pair.model.path, options(tmp_path), machine_with(trt, FakeGpu(), plans))
    assert [(v["decision"], v["basis"]) for v in finished.receipt.verdicts] == [("do not ship", "measured")]


def test_a_throttled_run_is_marked_and_not_decided(pair: Pair, tmp_path: Path) -> None:
    class Hot:
        name = "script"
        looks = 0

        def read(self) -> Reading:
            self.looks += 1
            return Reading(1410.0, 1215.0, 85.0, 300.0, throttling=("heat",) if self.looks > 2 else ())

    machine = machine_with(trt, FakeGpu(), pair.plans(), Hot())
    finished = finish(pair.model.path, options(tmp_path), machine)
    assert all(row.conditions.throttled for row in finished.receipt.rows)
    assert all("throttled: heat" in row.note and "mJ an image" in row.note for row in finished.receipt.rows)
    assert [v["decision"] for v in finished.receipt.verdicts] == ["undecided"]
    assert "throttled" in finished.receipt.verdicts[0]["reason"]


def test_other_outputs_are_refused_and_nothing_is_sealed(pair: Pair, tmp_path: Path) -> None:
    plans = pair.plans()
    right = plans[0].compute
    plans[0] = dataclasses.replace(plans[0], compute=lambda inputs: {"logits": right(inputs)["logits"] + 0.5})
    asked = options(tmp_path, receipt=tmp_path / "receipt.json")
    with pytest.raises(ParityError, match="relative_error"):
        finish(pair.model.path, asked, machine_with(trt, FakeGpu(), plans))
    assert not (tmp_path / "engine").exists()
    assert read_receipt(tmp_path / "receipt.json").status == "failed"  # see test_failing


def test_a_nan_is_refused(pair: Pair, tmp_path: Path) -> None:
    plans = [
        dataclasses.replace(plan, compute=lambda i: {"logits": np.full((len(i["pixel_values"]), 5), np.nan)})
        for plan in pair.plans()
    ]
    with pytest.raises(Exception, match="finite"):
        finish(pair.model.path, options(tmp_path), machine_with(trt, FakeGpu(), plans))


def test_an_engine_that_does_not_fit_the_gpu_at_hand_is_built_but_not_run(pair: Pair, tmp_path: Path) -> None:
    gpu = FakeGpu(capability=(9, 0), name=b"Fake H100")
    finished = finish(pair.model.path, options(tmp_path), machine_with(trt, gpu, []))
    assert finished.receipt.status == "not run: Fake H100 has compute capability 9.0, the engine is for 8.0"
    assert finished.receipt.rows == ()


class AtMode:
    """Clocks of a Jetson in a power mode; None: it does not say."""

    name = "script"

    def __init__(self, mode: str | None) -> None:
        self.mode = mode

    def read(self) -> Reading:
        return Reading(power_mode=self.mode)


@pytest.mark.parametrize(
    ("mode", "status"),
    [
        ("30W", "measured"),
        (None, "measured"),  # kept: the figures are real, only their mode is not known; see the next test
        ("MAXN", "not run: the device is in power mode MAXN, agx-orin-64gb@30W means 30W (set it with nvpmodel)"),
    ],
)
def test_figures_of_another_power_mode_are_not_taken(tmp_path: Path, mode: str | None, status: str) -> None:
    receipt = at_mode(tmp_path, mode)
    assert receipt.status == status
    expected = mode or "power mode unknown"
    assert {row.conditions.power_mode for row in receipt.rows} <= {expected}
    assert bool(receipt.rows) == (status == "measured")


def test_an_unknown_power_mode_is_recorded_as_unknown_and_decides_nothing(tmp_path: Path) -> None:
    """As in a container without nvpmodel: the rows must not stand as measured in the mode that the target means."""
    unknown = at_mode(tmp_path / "a", None, model_ms=3.0)
    known = at_mode(tmp_path / "b", "30W", model_ms=3.0)
    assert all("power mode unknown" in row.note and "means 30W" in row.note for row in unknown.rows)
    assert not any("unknown" in row.note for row in known.rows)
    assert [v["decision"] for v in known.verdicts] == ["do not ship"]  # three times as slow
    assert [v["decision"] for v in unknown.verdicts] == ["undecided"]
    assert "power mode unknown" in unknown.verdicts[0]["reason"]


def at_mode(folder: Path, mode: str | None, model_ms: float = 0.5) -> Receipt:
    """The receipt of an Orin at 30 W whose nvpmodel says `mode`; the model takes so many ms an image, its twin 1."""
    pair = make_pair(folder / "store", "agx-orin@30W")
    gpu = FakeGpu(capability=(8, 6), name=b"stand-in")  # what TensorRT-RTX builds for Orin
    plans = pair.plans(lambda batch: model_ms * batch, lambda batch: 1.0 * batch)
    machine = machine_with(trt, gpu, plans, AtMode(mode))
    return finish(pair.model.path, options(folder, twin=str(pair.twin.path)), machine).receipt


def test_the_timing_cache_goes_from_build_to_build_and_to_its_file(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpusq.finishing import flow as module

    given: list[bytes | None] = []
    real = module.build_bundle

    def build(bundle: Any, library: Any, purpose: Any, *, timing_cache: bytes | None, **named: Any) -> Any:
        given.append(timing_cache)
        plan = real(bundle, library, dataclasses.replace(purpose, ahead=True), timing_cache=None, **named)
        return dataclasses.replace(plan, timing_cache=(timing_cache or b"") + b"+")

    monkeypatch.setattr(module, "build_bundle", build)
    cache = tmp_path / "timing.cache"
    for _ in range(2):  # on a device of its own the builder is TensorRT; what it builds does not matter here
        asked = options(tmp_path, builder="tensorrt", timing_cache=cache)
        finish(pair.model.path, asked, machine_with(trt, FakeGpu(), pair.plans()))
    assert given == [None, b"+", b"++", b"+++"]
    assert cache.read_bytes() == b"++++"


def test_tensorrt_needs_its_own_device(pair: Pair, tmp_path: Path) -> None:
    asked = options(tmp_path, builder="tensorrt")
    with pytest.raises(EngineError, match=r"on the device itself.*8\.0.*--builder tensorrt-rtx"):
        finish(pair.model.path, asked, machine_without_gpu(trt))
    gpu = FakeGpu(capability=(8, 7), name=b"Orin")
    with pytest.raises(EngineError, match=r"Orin, compute capability 8\.7"):
        finish(pair.model.path, asked, machine_with(trt, gpu, []))
    assert not (tmp_path / "engine").exists()


def test_a_share_of_sparse_time_can_be_demanded(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="2:4 kernels; got 0%"):
        finish(pair.model.path, options(tmp_path, require_sparse=0.5), machine_without_gpu(trt))
    assert not (tmp_path / "engine").exists()


def test_the_engine_replaces_an_earlier_one_and_nothing_else(pair: Pair, tmp_path: Path) -> None:
    machine = machine_without_gpu(trt)
    first = finish(pair.model.path, options(tmp_path, twin="none"), machine).engines["model"]
    again = finish(pair.model.path, options(tmp_path, twin="none"), machine).engines["model"]
    assert first.path == again.path
    assert first.key == again.key
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    for out in (tmp_path / "full", tmp_path / "full/thesis.txt", pair.model.path, pair.model.path / "engine"):
        with pytest.raises(UsageError):
            finish(pair.model.path, options(tmp_path, out=out), machine)
    assert (tmp_path / "full/thesis.txt").read_text() == "mine"


def test_the_twin_is_found_beside_it_or_named_or_left_out(pair: Pair, tmp_path: Path) -> None:
    machine = machine_without_gpu(trt)
    assert set(finish(pair.model.path, options(tmp_path), machine).engines) == {"model", "dense twin"}
    named = options(tmp_path, twin=str(pair.twin.path))
    assert set(finish(pair.model.path, named, machine).engines) == {"model", "dense twin"}
    assert set(finish(pair.model.path, options(tmp_path, twin="none"), machine).engines) == {"model"}
    assert set(finish(pair.twin.path, options(tmp_path, out=tmp_path / "t"), machine).engines) == {"model"}


def test_a_twin_that_is_none_is_refused(pair: Pair, tmp_path: Path) -> None:
    machine = machine_without_gpu(trt)
    other = make_pair(tmp_path / "orin", "agx-orin")
    for twin, message in ((pair.model.path, "compressed"), (other.twin.path, "agx-orin")):
        with pytest.raises(UsageError, match=message):
            finish(pair.model.path, options(tmp_path, twin=str(twin)), machine)


def test_other_artifacts_and_unknown_tasks_are_refused(pair: Pair, tmp_path: Path) -> None:
    machine = machine_without_gpu(trt)
    engine = finish(pair.model.path, options(tmp_path, twin="none"), machine).engines["model"]
    with pytest.raises(StageOrderError):
        finish(engine.path, options(tmp_path, out=tmp_path / "x"), machine)
    odd = make_pair(tmp_path / "odd", task="astrology")
    with pytest.raises(UsageError, match="astrology"):
        finish(odd.model.path, options(tmp_path, out=tmp_path / "x"), machine)


def test_bench_runs_a_sealed_engine_where_it_fits_and_refuses_clearly_elsewhere(pair: Pair, tmp_path: Path) -> None:
    from gpusq.device_measurement import bench_on_device
    from gpusq.measurement import bench_engines

    engines = finish(pair.model.path, options(tmp_path), machine_without_gpu(trt)).engines
    machine = machine_with(trt, FakeGpu(), pair.plans())
    found = bench_on_device(list(engines.values()), (1, 8), 0.02, machine)
    assert [(row["engine"], row["batch"]) for row in found["rows"]] == [
        (engine.digest, batch) for batch in (1, 8) for engine in engines.values()
    ]
    assert found["rows"][0]["p50_ms"] == pytest.approx(0.5)
    assert found["conditions"]["device"]["name"] == "Fake A100"
    with pytest.raises(EngineError, match=r"compute capability 8\.0.*no GPU.*gpusq build bundle-"):
        bench_on_device([engines["model"]], (1,), 0.02, machine_without_gpu(trt))
    with pytest.raises(EngineError, match="gpusq build"):
        bench_engines([engines["model"]], (1,), None, 0.02)  # this machine, as it is


def test_what_is_sealed_is_plain_json(pair: Pair, tmp_path: Path) -> None:
    engine = finish(pair.model.path, options(tmp_path), machine_with(trt, FakeGpu(), pair.plans())).engines["model"]
    receipt = json.loads(engine.read("receipt.json"))
    assert receipt["measurements"][0]["timing"]["n"] >= 50
    assert receipt["measurements"][0]["throughput"][0]["streams"] == 1
    assert receipt["device"]["capability"] == "8.0"
