"""A plan on a (stand-in) device: the same numbers by every way in, nothing copied where nothing should be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpusq.engines.cuda import CudaRuntime
from gpusq.engines.device_arrays import DeviceArray, viewed
from gpusq.engines.device_engine import DeviceEngine
from gpusq.engines.device_runner import DeviceRunner
from gpusq.engines.device_session import Session
from gpusq.errors import EngineError
from tests.engines.fake_device import FakeGpu, FakePlan, Tensor, classifier, runtime_module, with_device

trt = pytest.importorskip("tensorrt_rtx", reason="the rtx extra brings the names and enums that the runner uses")


def engine_of(gpu: FakeGpu, plan: FakePlan | None) -> DeviceEngine:
    return DeviceEngine(b"plan", with_device(trt, gpu, lambda _: plan), CudaRuntime(runtime_module(gpu)))


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 4, 4)).astype(np.float32)


def expected(batch: np.ndarray, classes: int = 5) -> np.ndarray:
    return classifier(classes).compute({"pixel_values": batch})["logits"]


class OnDevice:
    """What torch, cupy and pycuda hand over: memory of the fake device behind the array interface."""

    def __init__(self, gpu: FakeGpu, array: np.ndarray, **changes: Any) -> None:
        self.address = gpu.number()
        gpu.memory[self.address] = np.frombuffer(array.tobytes(), np.uint8).copy()
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "version": 3,
            "stream": None,
        } | changes


def read(gpu: FakeGpu, array: DeviceArray) -> np.ndarray:
    return gpu.view(array.address, array.nbytes).view(array.dtype).reshape(array.shape)


@pytest.mark.parametrize("count", [1, 3, 32, 33, 70])
@pytest.mark.parametrize("dtype", ["FLOAT", "HALF"])
def test_any_number_of_images_gives_their_logits(count: int, dtype: str) -> None:
    runner = DeviceRunner(engine_of(FakeGpu(), classifier(dtype=dtype)))
    batch = images(count)
    found = runner.run(batch)
    assert (found.dtype, found.shape) == (np.float32, (count, 5))
    np.testing.assert_allclose(found, expected(batch), atol=1e-5 if dtype == "FLOAT" else 0.05)


def test_batched_is_single() -> None:
    runner = DeviceRunner(engine_of(FakeGpu(), classifier()))
    batch = images(9)
    singles = np.concatenate([runner.run(batch[i : i + 1]) for i in range(9)])
    np.testing.assert_array_equal(runner.run(batch), singles)


def test_every_output_is_given_by_name() -> None:
    def compute(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        batch = inputs["pixel_values"]
        return {"logits": batch.sum((2, 3)), "boxes": batch.reshape(len(batch), 12, 4)}

    tensors = (
        Tensor("pixel_values", True, "FLOAT", (-1, 3, 4, 4)),
        Tensor("logits", False, "FLOAT", (-1, 3)),
        Tensor("boxes", False, "FLOAT", (-1, 12, 4)),
    )
    runner = DeviceRunner(engine_of(FakeGpu(), FakePlan(tensors, compute)))
    found = runner.outputs(images(5))
    assert {name: array.shape for name, array in found.items()} == {"logits": (5, 3), "boxes": (5, 12, 4)}
    np.testing.assert_array_equal(found["boxes"].reshape(5, 3, 4, 4), images(5))


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((2, 3, 4, 5), np.float32),
        np.zeros((3, 4, 4), np.float32),
        np.zeros((2, 3, 4, 4), np.float64),
        np.zeros((0, 3, 4, 4), np.float32),
    ],
)
def test_other_images_are_refused_before_the_device_sees_them(batch: np.ndarray) -> None:
    gpu = FakeGpu()
    runner = DeviceRunner(engine_of(gpu, classifier()))
    with pytest.raises(EngineError, match=r"\[B, 3, 4, 4\]|at least one"):
        runner.run(batch)
    assert "cudaMemcpyAsync" not in gpu.calls


@pytest.mark.parametrize("batch", [0, 33])
def test_a_batch_outside_the_profile_is_refused(batch: int) -> None:
    with Session(engine_of(FakeGpu(), classifier())) as session, pytest.raises(EngineError, match="1 to 32"):
        session.prepare(batch)


def test_a_plan_that_the_library_refuses_says_why() -> None:
    with pytest.raises(EngineError, match=r"another version.*gpusq build"):
        engine_of(FakeGpu(), None)


def test_a_type_without_a_numpy_name_is_refused() -> None:
    with pytest.raises(EngineError, match="BF16"):
        engine_of(FakeGpu(), classifier(dtype="BF16"))


def test_a_graph_gives_what_calls_give_and_is_made_anew_for_another_batch() -> None:
    gpu = FakeGpu()
    with Session(engine_of(gpu, classifier())) as session:
        first = session.outputs(images(4))["logits"]
        session.capture(4)
        session.launch()
        runs = gpu.calls.count("cudaGraphInstantiate")
        session.capture(4)
        assert gpu.calls.count("cudaGraphInstantiate") == runs == 1
        np.testing.assert_array_equal(session.outputs(images(4))["logits"], first)
        session.capture(2)
        assert gpu.calls.count("cudaGraphInstantiate") == 2
    assert (gpu.graphs, gpu.memory, gpu.streams, gpu.events) == ({}, {}, set(), {})


def test_a_graph_works_on_the_bytes_that_lie_in_its_buffers_now() -> None:
    gpu, seen = FakeGpu(), []

    def compute(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(inputs["pixel_values"].copy())
        return {"logits": np.zeros((len(inputs["pixel_values"]), 5), np.float32)}

    with Session(engine_of(gpu, classifier(compute=compute))) as session:
        session.capture(2)
        session.outputs(images(2, seed=7))
        session.launch()
        np.testing.assert_array_equal(seen[-1], images(2, seed=7))


def test_a_plan_that_cannot_be_captured_leaves_a_stream_that_works() -> None:
    gpu = FakeGpu()
    with Session(engine_of(gpu, classifier(capturable=False))) as session:
        with pytest.raises(EngineError):
            session.capture(2)
        assert gpu.capturing == {}
        np.testing.assert_allclose(session.outputs(images(2))["logits"], expected(images(2)), atol=1e-5)
        with pytest.raises(EngineError, match="captured"):
            session.launch()


def test_sharing_copies_nothing_and_allocates_outputs_alone() -> None:
    gpu = FakeGpu()
    with Session(engine_of(gpu, classifier())) as session:
        given = OnDevice(gpu, images(3))
        found = session.share({"pixel_values": given})
        assert "cudaMemcpyAsync" not in gpu.calls
        np.testing.assert_allclose(read(gpu, found["logits"]), expected(images(3)), atol=1e-5)
        assert found["logits"].__cuda_array_interface__["stream"] is None  # synchronised already
        later = session.share({"pixel_values": given}, synchronize=False)["logits"]
        assert later.__cuda_array_interface__["stream"] == session.stream
        assert later.__cuda_array_interface__["shape"] == (3, 5)
        assert later.__cuda_array_interface__["typestr"] == "<f4"


def test_outputs_may_be_shared_too_and_own_runs_still_work_afterwards() -> None:
    gpu = FakeGpu()
    with Session(engine_of(gpu, classifier())) as session:
        session.outputs(images(4))
        out = OnDevice(gpu, np.zeros((3, 5), np.float32))
        found = session.share({"pixel_values": OnDevice(gpu, images(3))}, {"logits": out})
        assert found["logits"].address == out.address
        np.testing.assert_allclose(read(gpu, found["logits"]), expected(images(3)), atol=1e-5)
        np.testing.assert_allclose(session.outputs(images(4))["logits"], expected(images(4)), atol=1e-5)


@pytest.mark.parametrize("stream", [1, 2, 12345])
def test_the_stream_of_a_producer_is_waited_for(stream: int) -> None:
    gpu = FakeGpu()
    with Session(engine_of(gpu, classifier())) as session:
        session.share({"pixel_values": OnDevice(gpu, images(1), stream=stream)})
        event = gpu.records[-1][0]
        assert gpu.records[-1] == (event, stream)
        assert gpu.waits[-1] == (session.stream, event)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"typestr": "<f8"}, "float32"),
        ({"shape": (2, 3, 4, 5)}, "shape"),
        ({"shape": (3, 4, 4)}, "shape"),
        ({"strides": (400, 64, 16, 4)}, "contiguous"),
        ({"stream": 0}, "stream"),
        ({"data": (0, False)}, "device"),
    ],
)
def test_memory_that_does_not_fit_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    gpu = FakeGpu()
    with (
        Session(engine_of(gpu, classifier())) as session,
        pytest.raises(EngineError, match=rf"pixel_values.*{message}"),
    ):
        session.share({"pixel_values": OnDevice(gpu, images(2), **changes)})


def test_host_memory_missing_and_unknown_names_and_read_only_outputs_are_refused() -> None:
    gpu = FakeGpu()
    with Session(engine_of(gpu, classifier())) as session:
        given = {"pixel_values": OnDevice(gpu, images(2))}
        with pytest.raises(EngineError, match="ndarray"):
            session.share({"pixel_values": images(2)})
        with pytest.raises(EngineError, match="pixel_values"):
            session.share({})
        with pytest.raises(EngineError, match="extra"):
            session.share(given | {"extra": given["pixel_values"]})
        out = OnDevice(gpu, np.zeros((2, 5), np.float32))
        read_only = OnDevice(gpu, np.zeros((2, 5), np.float32), data=(out.address, True))
        with pytest.raises(EngineError, match="read-only"):
            session.share(given, {"logits": read_only})


def test_axes_of_one_element_may_have_any_stride() -> None:
    gpu = FakeGpu()
    one = OnDevice(gpu, images(1), strides=(9999, 64, 16, 4))
    assert viewed(one, "x", np.dtype("<f4"), (-1, 3, 4, 4)).shape == (1, 3, 4, 4)


def test_layer_times_come_from_the_profiler() -> None:
    gpu = FakeGpu()
    with Session(engine_of(gpu, classifier(layers={"fc1": 0.5, "fc2": 0.25}))) as session:
        assert session.layer_times_us(8, runs=4) == {"fc1": 500.0, "fc2": 250.0}
