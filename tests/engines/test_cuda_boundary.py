"""The CUDA boundary: return codes become errors, handles stay alive, and both layouts of cuda-python are found."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from gpusq.engines import cuda
from gpusq.engines.cuda import CALLS, CudaRuntime, missing_names, open_cuda, runtime_module
from gpusq.errors import EngineError, MissingExtraError
from tests.engines.fake_device import FakeGpu
from tests.engines.fake_device import runtime_module as fake_runtime


def test_the_device_is_described_in_versions_that_people_write() -> None:
    device = CudaRuntime(fake_runtime(FakeGpu())).device()
    assert (device.name, device.capability, device.pci) == ("Fake A100", "8.0", "0000:07:00.0")
    assert (device.driver, device.runtime) == ("12.6", "13.2")
    assert device.memory_bytes == 40 << 30


def test_bytes_go_there_and_back() -> None:
    gpu = FakeGpu()
    device = CudaRuntime(fake_runtime(gpu))
    stream = device.stream()
    there = np.arange(12, dtype=np.float32).reshape(3, 4)
    back = np.zeros_like(there)
    address = device.allocate(there.nbytes)
    device.to_device(address, there, stream)
    device.to_host(back, address, stream)
    device.synchronize(stream)
    np.testing.assert_array_equal(back, there)
    device.free(address)
    device.destroy_stream(stream)
    assert (gpu.memory, gpu.streams) == ({}, set())


def test_memory_with_gaps_is_not_copied() -> None:
    device = CudaRuntime(fake_runtime(FakeGpu()))
    address, stream = device.allocate(64), device.stream()
    with pytest.raises(EngineError, match="contiguous"):
        device.to_device(address, np.zeros((4, 4), np.float32)[:, ::2], stream)


@pytest.mark.parametrize(("name", "code", "message"), [("cudaMalloc", 2, "free memory"), ("cudaMalloc", 700, "doctor")])
def test_a_refusal_carries_cudas_name_of_the_error(name: str, code: int, message: str) -> None:
    device = CudaRuntime(fake_runtime(FakeGpu(fails={name: code})))
    with pytest.raises(EngineError, match=message) as refused:
        device.allocate(1)
    assert name in refused.value.what
    assert refused.value.got in ("cudaErrorMemoryAllocation", "cudaErrorUnknown")


def test_without_a_driver_it_says_so_in_both_ways_of_cuda_python() -> None:
    with pytest.raises(EngineError, match="driver"):
        CudaRuntime(fake_runtime(FakeGpu(fails={"cudaGetDeviceCount": 35})))

    def dlopen() -> None:  # what cuda-python 12.6 does
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    runtime = fake_runtime(FakeGpu())
    runtime.cudaGetDeviceCount = dlopen
    with pytest.raises(EngineError, match="there is no NVIDIA driver"):
        CudaRuntime(runtime)


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(EngineError, match="0 devices"):
        CudaRuntime(fake_runtime(FakeGpu(count=0)))


@pytest.mark.parametrize("name", cuda.MODULES)
def test_the_runtime_is_found_in_either_layout(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for module in cuda.MODULES:
        monkeypatch.setitem(sys.modules, module, None)
    package = name.rpartition(".")[0]
    for part in ("cuda", package):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    found = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, found)
    assert runtime_module() is found


def test_without_cuda_python_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in cuda.MODULES:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"\.\[gpu\]"):
        open_cuda()


def test_the_stand_in_offers_every_call_and_a_lacking_one_is_named() -> None:
    runtime = fake_runtime(FakeGpu())
    assert missing_names(runtime) == ()
    del runtime.cudaGraphLaunch
    assert missing_names(runtime) == ("cudaGraphLaunch",)
    assert len(set(CALLS)) == len(CALLS)
