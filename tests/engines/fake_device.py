"""A GPU that is none: the runtime API of cuda-python on host memory and virtual time, and plans that numpy runs.

Only what needs a device is replaced. `runtime_module` stands where `cuda.bindings.runtime` would, so the adapter above
it is the real one; `with_device` takes a real TensorRT module and replaces what loads and runs a plan, no more.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Compute = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
"""Inputs by name to outputs by name: what the plan computes."""


class Handle:
    """An opaque CUDA handle, as cuda-python wraps it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __int__(self) -> int:
        return self.number


@dataclass
class FakeGpu:
    """The state of the device. now_ms: virtual time; batch_ms: what one run of a plan takes, by plan."""

    capability: tuple[int, int] = (8, 0)
    name: bytes = b"Fake A100"
    count: int = 1
    now_ms: float = 0.0
    calls: list[str] = field(default_factory=list)
    fails: Mapping[str, int] = field(default_factory=dict)
    memory: dict[int, np.ndarray] = field(default_factory=dict)
    events: dict[int, float] = field(default_factory=dict)
    streams: set[int] = field(default_factory=set)
    graphs: dict[int, list[Callable[[], None]]] = field(default_factory=dict)
    capturing: dict[int, list[Callable[[], None]]] = field(default_factory=dict)
    waits: list[tuple[int, int]] = field(default_factory=list)
    records: list[tuple[int, int]] = field(default_factory=list)
    next_number: int = 4096

    def number(self) -> int:
        """A fresh handle or address, well apart from the others."""
        self.next_number += 1 << 24
        return self.next_number

    def queue(self, stream: int, work: Callable[[], None]) -> None:
        """Run at once, or keep it where the stream is being captured."""
        if stream in self.capturing:
            self.capturing[stream].append(work)
        else:
            work()

    def view(self, address: int, nbytes: int) -> np.ndarray:
        """The bytes at an address, which must have been allocated."""
        for start, data in self.memory.items():
            if start <= address and address + nbytes <= start + len(data):
                return data[address - start : address - start + nbytes]
        raise AssertionError(f"address {address} (+{nbytes}) was never allocated")


def runtime_module(gpu: FakeGpu) -> Any:
    """A stand-in for `cuda.bindings.runtime`: the calls that gpusq makes, with the return convention of cuda-python."""
    module = types.SimpleNamespace()
    module.cudaMemcpyKind = types.SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    module.cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    module.cudaGetErrorName = lambda code: (
        0,
        {35: b"cudaErrorInsufficientDriver", 2: b"cudaErrorMemoryAllocation"}.get(int(code), b"cudaErrorUnknown"),
    )

    def call(name: str, work: Callable[..., Any]) -> None:
        def wrapped(*arguments: Any) -> tuple[Any, ...]:
            gpu.calls.append(name)
            if name in gpu.fails:
                return (gpu.fails[name], None)
            result = work(*arguments)
            return (0,) if result is None else (0, result)

        setattr(module, name, wrapped)

    properties = types.SimpleNamespace(
        name=gpu.name + b"\0" * 8, major=gpu.capability[0], minor=gpu.capability[1], totalGlobalMem=40 << 30
    )
    for name, work in _calls(gpu, properties).items():
        call(name, work)
    return module


def forget(kept: dict[int, Any], handle: Any) -> None:
    """Remove what a handle names; a KeyError shows a double free."""
    del kept[int(handle)]


def _calls(gpu: FakeGpu, properties: Any) -> dict[str, Callable[..., Any]]:
    def malloc(nbytes: int) -> int:
        address = gpu.number()
        gpu.memory[address] = np.zeros(nbytes, np.uint8)
        return address

    def copy(target: int, source: int, nbytes: int, kind: int, stream: int) -> None:
        import ctypes

        assert int(stream) in gpu.streams
        on_device = gpu.view(target if kind == 1 else source, nbytes)
        host = (ctypes.c_uint8 * nbytes).from_address(source if kind == 1 else target)
        if kind == 1:
            on_device[:] = np.frombuffer(host, np.uint8)
        else:
            np.frombuffer(host, np.uint8)[:] = on_device

    def stream(flags: int) -> Handle:
        number = gpu.number()
        gpu.streams.add(number)
        return Handle(number)

    def event() -> Handle:
        number = gpu.number()
        gpu.events[number] = -1.0
        return Handle(number)

    def record(event: int, stream: int) -> None:
        gpu.events[int(event)] = gpu.now_ms
        gpu.records.append((int(event), int(stream)))

    def end_capture(stream: int) -> Handle:
        number = gpu.number()
        gpu.graphs[number] = gpu.capturing.pop(int(stream))
        return Handle(number)

    def instantiate(graph: Any, flags: int) -> Handle:
        number = gpu.number()
        gpu.graphs[number] = gpu.graphs[int(graph)]
        return Handle(number)

    def launch(graph: int, stream: int) -> None:
        for work in gpu.graphs[int(graph)]:
            work()

    return {
        "cudaGetDeviceCount": lambda: gpu.count,
        "cudaSetDevice": lambda index: None,
        "cudaGetDeviceProperties": lambda index: properties,
        "cudaDriverGetVersion": lambda: 12060,
        "cudaRuntimeGetVersion": lambda: 13020,
        "cudaDeviceGetPCIBusId": lambda length, index: b"0000:07:00.0\0\0\0",
        "cudaMalloc": malloc,
        "cudaFree": lambda address: forget(gpu.memory, address),
        "cudaMemcpyAsync": copy,
        "cudaStreamCreateWithFlags": stream,
        "cudaStreamDestroy": lambda s: gpu.streams.remove(int(s)),
        "cudaStreamSynchronize": lambda s: None,
        "cudaStreamWaitEvent": lambda s, e, flags: gpu.waits.append((int(s), int(e))),
        "cudaStreamBeginCapture": lambda s, mode: gpu.capturing.__setitem__(int(s), []),
        "cudaStreamEndCapture": end_capture,
        "cudaGraphInstantiate": instantiate,
        "cudaGraphLaunch": launch,
        "cudaGraphExecDestroy": lambda g: forget(gpu.graphs, g),
        "cudaGraphDestroy": lambda g: forget(gpu.graphs, g),
        "cudaEventCreate": event,
        "cudaEventRecord": record,
        "cudaEventElapsedTime": lambda a, b: gpu.events[int(b)] - gpu.events[int(a)],
        "cudaEventDestroy": lambda e: forget(gpu.events, e),
    }


@dataclass(frozen=True)
class Tensor:
    """An input or output of a fake plan; -1: any size. largest: of the profile."""

    name: str
    is_input: bool
    dtype: str
    shape: tuple[int, ...]
    largest: int = 32


@dataclass(frozen=True)
class FakePlan:
    """What a loaded plan does. takes_ms: virtual time of a batch; capturable: whether a graph can be made of it."""

    tensors: tuple[Tensor, ...]
    compute: Compute
    takes_ms: Callable[[int], float] = lambda batch: 1.0
    capturable: bool = True
    layers: Mapping[str, float] = field(default_factory=dict)


def classifier(classes: int = 5, image: tuple[int, ...] = (3, 4, 4), dtype: str = "FLOAT", **changes: Any) -> FakePlan:
    """Logits as sums of the image over `classes` strides, so that every image gives others."""

    def compute(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        flat = inputs["pixel_values"].reshape(len(inputs["pixel_values"]), -1)
        logits = np.stack([flat[:, i::classes].sum(axis=1) for i in range(classes)], axis=1)
        return {"logits": logits.astype(flat.dtype)}

    tensors = (Tensor("pixel_values", True, dtype, (-1, *image)), Tensor("logits", False, dtype, (-1, classes)))
    return FakePlan(tensors, changes.pop("compute", compute), **changes)


def with_device(trt: Any, gpu: FakeGpu, plan_of: Callable[[bytes], FakePlan | None]) -> Any:
    """The module `trt` with a Runtime that loads plans by `plan_of` (None: refused) and runs them on `gpu`.

    `loaded` keeps the bytes of every plan that reached deserialization.
    """
    loaded: list[bytes] = []

    class Runtime:
        def __init__(self, log: Any) -> None:
            self.log = log

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            loaded.append(plan)
            found = plan_of(plan)
            if found is None:
                self.log.log(trt.ILogger.ERROR, "the plan is of another version")
                return None
            return Engine(trt, gpu, found)

    class Module:
        def __getattr__(self, name: str) -> Any:
            return getattr(trt, name)

    module = Module()
    module.Runtime, module.loaded, module.__name__ = Runtime, loaded, trt.__name__  # type: ignore[attr-defined]
    return module


class Engine:
    """ICudaEngine of a fake plan."""

    def __init__(self, trt: Any, gpu: FakeGpu, plan: FakePlan) -> None:
        self.trt, self.gpu, self.plan = trt, gpu, plan
        self.tensors = {tensor.name: tensor for tensor in plan.tensors}
        self.num_io_tensors = len(plan.tensors)

    def get_tensor_name(self, index: int) -> str:
        return self.plan.tensors[index].name

    def get_tensor_mode(self, name: str) -> Any:
        modes = self.trt.TensorIOMode
        return modes.INPUT if self.tensors[name].is_input else modes.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self.trt.DataType, self.tensors[name].dtype)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        tensor = self.tensors[name]
        return [(batch, *tensor.shape[1:]) for batch in (1, 8, tensor.largest)]

    def create_execution_context(self) -> Context:
        return Context(self)


class Context:
    """IExecutionContext of a fake plan: refuses what TensorRT refuses."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.gpu, self.plan = engine, engine.gpu, engine.plan
        self.batch: int | None = None
        self.addresses: dict[str, int] = {}
        self.profiler: Any = None
        self.enqueue_emits_profile = True

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        return index == 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        tensor = self.engine.tensors[name]
        if not 1 <= shape[0] <= tensor.largest or shape[1:] != tensor.shape[1:]:
            return False
        self.batch = shape[0]
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shape = self.engine.tensors[name].shape
        if shape[0] != -1:
            return shape
        return (-1 if self.batch is None else self.batch, *shape[1:])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in self.engine.tensors

    def execute_async_v3(self, stream: int) -> bool:
        if self.gpu.capturing.get(stream) is not None and not self.plan.capturable:
            return False
        if set(self.addresses) != set(self.engine.tensors):
            return False
        addresses = dict(self.addresses)
        shapes = {name: self.get_tensor_shape(name) for name in addresses}
        self.gpu.queue(stream, lambda: self._compute(addresses, shapes))
        return True

    def _compute(self, addresses: dict[str, int], shapes: dict[str, tuple[int, ...]]) -> None:
        from gpusq.engines.device_arrays import TYPES

        arrays = {}
        for name, address in addresses.items():
            dtype = np.dtype(TYPES[self.engine.tensors[name].dtype])
            count = int(np.prod(shapes[name]))
            arrays[name] = self.gpu.view(address, count * dtype.itemsize).view(dtype).reshape(shapes[name])
        inputs = {name: array for name, array in arrays.items() if self.engine.tensors[name].is_input}
        for name, found in self.plan.compute(inputs).items():
            arrays[name][:] = found
        batch = next(iter(inputs.values())).shape[0]
        self.gpu.now_ms += self.plan.takes_ms(batch)
        if self.profiler is not None and self.enqueue_emits_profile:
            for name, ms in self.plan.layers.items():
                self.profiler.report_layer_time(name, ms)
