"""Engines beside ONNX Runtime on a GPU: at the boundary, with a stand-in for onnxruntime-gpu and one for the device."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from gpusq.artifacts import Artifact
from gpusq.cli.main import app
from gpusq.engines.onnxruntime_gpu import PROVIDERS
from gpusq.errors import EngineError, StageOrderError, TamperedArtifactError, UsageError
from gpusq.finishing import FinishOptions, finish
from gpusq.measurement import bench_engines
from gpusq.provider_measurement import HOW, bench_with_provider
from tests.engines.fake_device import FakeGpu
from tests.engines.test_onnxruntime_gpu import stand_in
from tests.finishing.small import Pair, machine_with, machine_without_gpu, make_pair, run_onnx

trt = pytest.importorskip("tensorrt_rtx", reason="the rtx extra builds real engines without a GPU")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pair, Artifact]:
    """Both bundles, and the engine of the model."""
    folder = tmp_path_factory.mktemp("provider")
    pair = make_pair(folder / "store")
    options = FinishOptions(folder / "engine", "tensorrt-rtx", twin="none")
    return pair, finish(pair.model.path, options, machine_without_gpu(trt)).engines["model"]


def install(
    monkeypatch: pytest.MonkeyPatch,
    provider: str,
    *,
    graph: bytes,
    running: list[str] | None = None,
    strict: bool = True,
) -> list[str]:
    """onnxruntime-gpu whose sessions compute `graph`; strict: whether a session without CPU nodes starts.

    Returns the list of sessions: the settings of each.
    """
    names = [PROVIDERS[provider], "CPUExecutionProvider"] if running is None else running
    ort: Any = stand_in(names)
    compute, sessions, base = run_onnx(graph), [], ort.InferenceSession

    class Session(base):  # type: ignore[misc, valid-type]
        def __init__(self, model: bytes, options: Any, providers: list[Any]) -> None:
            only_gpu = ort.seen.pop("session.disable_cpu_ep_fallback", "0") == "1"
            sessions.append(f"{providers[0][0]} {'alone' if only_gpu else 'with CPU nodes'}")
            if only_gpu and not strict:
                raise RuntimeError("node Shape_3 is assigned to the CPU")
            super().__init__(model, options, providers)

        def get_inputs(self) -> list[Any]:
            (found,) = super().get_inputs()
            found.shape = ["batch", 3, 4, 4]
            return [found]

        def run(self, names: Any, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [compute(feeds)["logits"]]

    ort.InferenceSession, ort.__version__ = Session, "1.99"
    monkeypatch.setitem(sys.modules, "onnxruntime", ort)
    return sessions


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_an_engine_and_its_bundle_take_turns(
    made: tuple[Pair, Artifact], monkeypatch: pytest.MonkeyPatch, provider: Any
) -> None:
    pair, engine = made
    sessions = install(monkeypatch, provider, graph=pair.graphs[0])
    machine = machine_with(trt, FakeGpu(), pair.plans())
    found = bench_with_provider([engine], provider, (1, 8), 0.01, pair.store, machine)
    assert sessions == [f"{PROVIDERS[provider]} alone"]
    assert [(row["engine"], row["runtime"], row["batch"]) for row in found["rows"]] == [
        (artifact.digest, runtime, batch)
        for batch in (1, 8)
        for artifact, runtime in (
            (engine, f"tensorrt_rtx {trt.__version__}"),
            (pair.model, f"onnxruntime-{provider} 1.99, model.fp16.onnx"),
        )
    ]
    assert {row["n"] for row in found["rows"] if row["batch"] == 1} == {found["rows"][0]["n"]}  # in turn
    assert found["rows"][1]["gate"]["passed"] is True
    assert (found["status"], found["conditions"]["how"]) == ("measured", HOW)
    assert found["conditions"]["device"]["name"] == "Fake A100"


def test_nodes_on_the_cpu_are_said(made: tuple[Pair, Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    pair, _ = made
    sessions = install(monkeypatch, "cuda", graph=pair.graphs[0], strict=False)
    found = bench_with_provider([pair.model], "cuda", (1,), 0.01)
    assert [session.partition(" ")[2] for session in sessions] == ["alone", "with CPU nodes"]
    assert "some may run on the CPU: node Shape_3 is assigned to the CPU" in found["rows"][0]["note"]


def test_other_outputs_are_said(made: tuple[Pair, Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    pair, _ = made
    install(monkeypatch, "cuda", graph=pair.graphs[1])  # the twin's
    found = bench_with_provider([pair.model], "cuda", (1,), 0.01)
    assert found["rows"][0]["gate"]["passed"] is False


def test_a_provider_that_fell_back_to_the_cpu_gives_no_rows(
    made: tuple[Pair, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, _ = made
    install(monkeypatch, "cuda", graph=pair.graphs[0], running=["CPUExecutionProvider"])
    with pytest.raises(EngineError, match="fell back in silence"):
        bench_with_provider([pair.model], "cuda", (1,), 0.01)


def test_what_cannot_be_compared_is_refused(
    made: tuple[Pair, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, engine = made
    install(monkeypatch, "cuda", graph=pair.graphs[0])
    with pytest.raises(UsageError, match=r"no bundle [0-9a-f]{12} in the store.*gpusq bench BUNDLE"):
        bench_with_provider([engine], "cuda", (1,), 0.01)
    with pytest.raises(UsageError, match="up to 32; got 64"):
        bench_with_provider([pair.model], "cuda", (64,), 0.01)
    with pytest.raises(EngineError, match="no GPU"):  # the engine's own refusal, before anything is timed
        bench_with_provider([engine, pair.model], "cuda", (1,), 0.01, None, machine_without_gpu(trt))
    with pytest.raises(StageOrderError):  # without --provider a bundle is still nothing to run
        bench_engines([pair.model], (1,), None, 0.01)
    other = make_pair(tmp_path / "store")
    (other.model.path / "model.fp16.onnx").write_bytes(b"another graph")
    with pytest.raises(TamperedArtifactError):
        bench_with_provider([other.model], "cuda", (1,), 0.01)


def test_the_command(made: tuple[Pair, Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    pair, _ = made
    bench = ["bench", str(pair.model.path), "--batch", "1", "--seconds", "0.1", "--provider", "cuda"]
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            done = CliRunner().invoke(app, [*bench, "--json"])
            assert done.exit_code == EngineError.exit_code
            assert "pip install onnxruntime-gpu" in json.loads(done.stdout)["error"]["do"]
    install(monkeypatch, "cuda", graph=pair.graphs[1], strict=False)
    done = CliRunner().invoke(app, bench)
    assert done.exit_code == 0, done.output
    assert "onnxruntime-cuda 1.99, model.fp16.onnx batch    1  p50" in done.stdout
    assert f"timed: {HOW}" in done.stdout
    assert "other outputs than the bundle expects" in done.stdout
    assert "some may run on the CPU" in done.stdout
    assert CliRunner().invoke(app, [*bench, "--threads", "2"]).exit_code == UsageError.exit_code
    assert CliRunner().invoke(app, [*bench[:-1], "rocm"]).exit_code == UsageError.exit_code
