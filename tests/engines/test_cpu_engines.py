"""The CPU engines compute what the ONNX file says at any batch, in equal files, and refuse what is no engine."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from gpusq.engines import onnxruntime_engine, openvino_engine
from gpusq.engines.cpu import RUNTIMES, choose_cpu, load_cpu
from gpusq.errors import EngineError

ENGINES = [openvino_engine, onnxruntime_engine]
EACH_ENGINE = pytest.mark.parametrize("engine", ENGINES, ids=lambda e: e.__name__.rpartition(".")[2])


@pytest.fixture(scope="session")
def built(fp32_model: bytes, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("engines")
    for engine in ENGINES:
        engine.build(fp32_model, root / engine.__name__)
    return {engine.__name__: root / engine.__name__ for engine in ENGINES}


@EACH_ENGINE
def test_agrees_with_the_reference_at_any_batch(
    engine: ModuleType, built: dict[str, Path], fp32_model: bytes, images: np.ndarray
) -> None:
    expected = ReferenceEvaluator(onnx.load_from_string(fp32_model)).run(None, {"pixel_values": images})[0]
    runner = engine.load(built[engine.__name__], threads=1)
    for start, stop in ((0, 1), (0, 6), (1, 3), (3, 6), (0, 2), (0, 5), (0, 4)):
        found = runner.run(images[start:stop])
        assert found.dtype == np.float32
        assert np.abs(found - expected[start:stop]).max() <= 0.02 * np.abs(expected).max()


@EACH_ENGINE
def test_results_are_fresh_arrays(engine: ModuleType, built: dict[str, Path], images: np.ndarray) -> None:
    runner = engine.load(built[engine.__name__], threads=1)
    first = runner.run(images)
    kept = first.copy()
    runner.run(-images)
    assert np.array_equal(first, kept)


@EACH_ENGINE
def test_equal_models_give_equal_files(
    engine: ModuleType, built: dict[str, Path], fp32_model: bytes, tmp_path: Path
) -> None:
    engine.build(fp32_model, tmp_path)
    first = {path.name: path.read_bytes() for path in built[engine.__name__].iterdir()}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_openvino_keeps_the_integers(built: dict[str, Path], fp32_model: bytes) -> None:
    stored = next(t for t in onnx.load_from_string(fp32_model).graph.initializer if t.name == "fc1.weight_int8")
    data = (built[openvino_engine.__name__] / "engine.bin").read_bytes()
    assert stored.raw_data in data
    assert len(data) < 2048  # 384 INT8 weights and some hundred bytes of float32


@EACH_ENGINE
@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((1, 3, 4, 5), np.float32),
        np.zeros((3, 4, 4), np.float32),
        np.zeros((1, 3, 4, 4), np.float64),
        np.zeros((0, 3, 4, 4), np.float32),
    ],
    ids=["shape", "rank", "type", "empty"],
)
def test_refuses_other_batches(engine: ModuleType, built: dict[str, Path], bad: np.ndarray) -> None:
    with pytest.raises(EngineError, match="expected"):
        engine.load(built[engine.__name__], threads=1).run(bad)


@EACH_ENGINE
def test_refuses_what_is_no_engine(engine: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(EngineError):
        engine.load(tmp_path, threads=1)
    for name in ("model.onnx", "engine.xml", "engine.bin"):
        (tmp_path / name).write_bytes(b"no engine")
    with pytest.raises(EngineError, match="loadable"):
        engine.load(tmp_path, threads=1)
    with pytest.raises(EngineError):
        engine.build(b"no model", tmp_path / "new")


@dataclass
class FakeTiming:
    p50_ms: float


@pytest.mark.parametrize("faster", list(RUNTIMES))
def test_the_faster_runtime_is_kept(faster: str, fp32_model: bytes, images: np.ndarray, tmp_path: Path) -> None:
    def timings(calls: dict[str, object]) -> dict[str, FakeTiming]:
        for call in calls.values():
            assert call().shape == (6, 5)  # type: ignore[operator]
        return {name: FakeTiming(1.0 if name == faster else 2.0) for name in calls}

    choice = choose_cpu(fp32_model, tmp_path / "engine", sample=images, threads=1, time_interleaved=timings)
    assert choice.runtime == faster
    assert choice.p50_ms[faster] == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]
    assert load_cpu(choice.runtime, tmp_path / "engine", 1).run(images).shape == (6, 5)


def test_openvino_is_the_choice_where_nothing_is_timed(fp32_model: bytes, images: np.ndarray, tmp_path: Path) -> None:
    choice = choose_cpu(fp32_model, tmp_path / "engine", sample=images, threads=1)
    assert (choice.runtime, dict(choice.p50_ms)) == ("openvino", {})


def test_the_room_imports_without_torch_and_runtimes() -> None:
    code = (
        "import sys, pkgutil, importlib, gpusq.engines as room\n"
        "[importlib.import_module(f'gpusq.engines.{m.name}') for m in pkgutil.iter_modules(room.__path__)]\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'openvino', 'tensorrt', 'tensorrt_rtx'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]"


def detector_model(batch: int | str = "batch") -> bytes:
    """pixel_values [batch, 3, 4, 4] -> boxes [batch, 6, 4], logits [batch, 6, 2], in this order."""
    nodes = [
        onnx.helper.make_node("Reshape", ["pixel_values", "six"], ["rows"]),
        onnx.helper.make_node("Sigmoid", ["rows"], ["whole"]),
        onnx.helper.make_node("Slice", ["whole", "zero", "four", "axis"], ["boxes"]),
        onnx.helper.make_node("Slice", ["rows", "four", "six_only", "axis"], ["logits"]),
    ]
    integers = {"six": [0, 6, 8], "zero": [0], "four": [4], "six_only": [6], "axis": [2]}
    initializers = [onnx.numpy_helper.from_array(np.int64(value), name) for name, value in integers.items()]
    border = {"pixel_values": (3, 4, 4), "boxes": (6, 4), "logits": (6, 2)}
    values = {
        k: onnx.helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, [batch, *shape]) for k, shape in border.items()
    }
    graph = onnx.helper.make_graph(
        nodes, "g", [values["pixel_values"]], [values["boxes"], values["logits"]], initializers
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    return model.SerializeToString(deterministic=True)


@EACH_ENGINE
def test_every_output_has_its_name(engine: ModuleType, images: np.ndarray, tmp_path: Path) -> None:
    engine.build(detector_model(), tmp_path)
    runner = engine.load(tmp_path, threads=1)
    rows = images.reshape(6, 6, 8)
    for stop in (6, 1):
        found = runner.outputs(images[:stop])
        assert list(found) == ["boxes", "logits"]
        assert np.allclose(found["boxes"], 1 / (1 + np.exp(-rows[:stop, :, :4])), atol=1e-6)
        assert np.array_equal(found["logits"], rows[:stop, :, 4:6])
        assert np.array_equal(runner.run(images[:stop]), found["logits"])


@EACH_ENGINE
def test_a_fixed_batch_takes_no_other(engine: ModuleType, images: np.ndarray, tmp_path: Path) -> None:
    engine.build(detector_model(2), tmp_path)
    runner = engine.load(tmp_path, threads=1)
    assert runner.outputs(images[:2])["boxes"].shape == (2, 6, 4)
    with pytest.raises(EngineError, match="batch of 2"):
        runner.outputs(images[:3])


@EACH_ENGINE
def test_a_model_without_logits_runs_as_its_first_output(
    engine: ModuleType, images: np.ndarray, tmp_path: Path
) -> None:
    proto = onnx.load_from_string(detector_model())
    proto.graph.node[-1].output[0] = proto.graph.output[1].name = "masks"
    engine.build(proto.SerializeToString(), tmp_path)
    runner = engine.load(tmp_path, threads=1)
    assert np.array_equal(runner.run(images), runner.outputs(images)["boxes"])
