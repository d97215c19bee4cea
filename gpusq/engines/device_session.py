"""One execution context of a plan: shapes, buffers, CUDA graphs, and foreign device memory without copies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpusq.engines.device_arrays import DeviceArray, viewed
from gpusq.engines.device_engine import DeviceEngine, TensorSpec
from gpusq.engines.runner import Float32
from gpusq.engines.tensorrt.profiler import make_profiler
from gpusq.errors import EngineError


class Session:
    """One execution context with its stream and buffers; one thread at a time. Close it, or use it in `with`."""

    def __init__(self, owner: DeviceEngine) -> None:
        self._owner, self._cuda = owner, owner.cuda
        self._context = owner.engine.create_execution_context()
        if self._context is None:
            raise owner.refused("create an execution context", "free memory on the device")
        self.stream = self._cuda.stream()
        self._ready = self._cuda.event()
        self._own: dict[str, DeviceArray] = {}
        self._graph: int | None = None
        self._bound: int | None = None
        if self._context.set_optimization_profile_async(0, self.stream) is False:
            raise owner.refused("take the optimization profile")

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs, in the order of the plan."""
        return tuple(spec for spec in self._owner.specs.values() if spec.is_input)

    @property
    def output_specs(self) -> tuple[TensorSpec, ...]:
        """The outputs, in the order of the plan."""
        return tuple(spec for spec in self._owner.specs.values() if not spec.is_input)

    def outputs(self, images: Float32) -> dict[str, NDArray[np.float32]]:
        """images [B, C, H, W] float32 on the host -> every output by name, float32. Raises EngineError."""
        spec = self._only_input()
        self.prepare(self._batch_of(images, spec))
        host = np.ascontiguousarray(images.astype(spec.dtype, copy=False))
        self._cuda.to_device(self._own[spec.name].address, host, self.stream)
        self.enqueue()
        found = {}
        for output in self.output_specs:
            found[output.name] = np.empty(self._shape_now(output), dtype=output.dtype)
            self._cuda.to_host(found[output.name], self._own[output.name].address, self.stream)
        self._cuda.synchronize(self.stream)
        return {name: array.astype(np.float32, copy=False) for name, array in found.items()}

    def prepare(self, batch: int) -> None:
        """Shapes for `batch` and the session's own buffers, so that `enqueue` can follow. Raises EngineError."""
        if self._bound == batch:
            return
        self._drop_graph()
        for spec in self.inputs:
            self._set_shape(spec, self._sized(spec, batch))
        self._allocate()
        for name, buffer in self._own.items():
            self._address(name, buffer.address)
        self._bound = batch

    def enqueue(self) -> None:
        """Queue one batch on the stream; returns at once."""
        if not self._context.execute_async_v3(self.stream):
            raise self._owner.refused("run the engine")

    def capture(self, batch: int) -> None:
        """Record one batch as a CUDA graph, which `launch` runs. Raises EngineError where it cannot be captured."""
        self.prepare(batch)
        if self._graph is not None:
            return
        self.enqueue()  # the library finishes its lazy work outside of the capture
        self._cuda.synchronize(self.stream)
        self._cuda.begin_capture(self.stream)
        try:
            self.enqueue()
        finally:  # a stream left capturing could not be used again
            graph = self._cuda.end_capture(self.stream)
        self._graph = graph

    def launch(self) -> None:
        """Queue the captured graph. Raises EngineError where nothing was captured."""
        if self._graph is None:
            raise EngineError("a CUDA graph must be captured first", got="none", do="call capture(batch)")
        self._cuda.launch(self._graph, self.stream)

    def layer_times_us(self, batch: int, runs: int = 10) -> dict[str, float]:
        """Median microseconds of each layer by the library's own profiler, without a graph; their sum is no latency.

        Empty where the library has no profiler.
        """
        if not hasattr(self._owner.trt, "IProfiler"):
            return {}
        self.prepare(batch)
        profiler = make_profiler(self._owner.trt)
        self._context.profiler = profiler
        self._context.enqueue_emits_profile = True
        for _ in range(runs):
            self.enqueue()
            self._cuda.synchronize(self.stream)
        times_us: dict[str, float] = profiler.times_us()
        return times_us

    def share(
        self, inputs: Mapping[str, Any], outputs: Mapping[str, Any] | None = None, *, synchronize: bool = True
    ) -> dict[str, DeviceArray]:
        """Run on memory that is on the device already: nothing is copied.

        inputs, outputs: by name, anything with `__cuda_array_interface__`; outputs not given are the session's own and
        hold until its next run. synchronize=False returns at once; the results then carry the stream to wait for.
        """
        self._drop_graph()
        self._bound = None
        given = {spec.name: viewed(inputs.get(spec.name), spec.name, spec.dtype, spec.shape) for spec in self.inputs}
        self._check_names(inputs, outputs or {})
        for name, array in given.items():
            self._set_shape(self._owner.specs[name], array.shape)
            self._wait_for(array)
            self._address(name, array.address)
        results = {spec.name: self._output(spec, outputs or {}) for spec in self.output_specs}
        for name, array in results.items():
            self._address(name, array.address)
        self.enqueue()
        if synchronize:
            self._cuda.synchronize(self.stream)
        waits = None if synchronize else self.stream
        return {name: DeviceArray(a.address, a.shape, a.dtype, waits) for name, a in results.items()}

    def close(self) -> None:
        """Give back memory, stream and graph; the session cannot be used afterwards."""
        self._drop_graph()
        for buffer in self._own.values():
            self._cuda.free(buffer.address)
        self._own = {}
        self._cuda.destroy_event(self._ready)
        self._cuda.destroy_stream(self.stream)

    def _only_input(self) -> TensorSpec:
        if len(self.inputs) != 1:
            raise EngineError("an image engine has one input", got=", ".join(s.name for s in self.inputs) or "none")
        return self.inputs[0]

    def _batch_of(self, images: Float32, spec: TensorSpec) -> int:
        if images.dtype != np.float32 or images.ndim != len(spec.shape) or images.shape[1:] != spec.largest[1:]:
            raise EngineError(
                f"{spec.name} must be a float32 batch of shape [B, {', '.join(map(str, spec.largest[1:]))}]",
                got=f"{images.dtype} {list(images.shape)}",
                do="preprocess the images as the model's description says",
            )
        return len(images)

    def _sized(self, spec: TensorSpec, batch: int) -> tuple[int, ...]:
        largest = spec.largest[0]
        if not 1 <= batch <= largest or (spec.shape[0] != -1 and batch != largest):
            allowed = f"1 to {largest}" if spec.shape[0] == -1 else str(largest)
            raise EngineError(f"the engine takes batches of {allowed}", got=str(batch), do="build with --max-batch")
        return (batch, *spec.largest[1:])

    def _set_shape(self, spec: TensorSpec, shape: tuple[int, ...]) -> None:
        if -1 in spec.shape and not self._context.set_input_shape(spec.name, shape):
            raise self._owner.refused(f"take shape {list(shape)} for {spec.name}", "stay within the built profile")

    def _shape_now(self, spec: TensorSpec) -> tuple[int, ...]:
        shape = tuple(int(size) for size in self._context.get_tensor_shape(spec.name))
        if any(size < 0 for size in shape):
            raise EngineError(f"the shape of {spec.name} must follow from the inputs", got=str(list(shape)))
        return shape

    def _address(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise self._owner.refused(f"take the address of {name}")

    def _allocate(self) -> None:
        """Own buffers for the shapes of now; kept where they are large enough."""
        for spec in self._owner.specs.values():
            shape = self._shape_now(spec)
            need = DeviceArray(0, shape, spec.dtype).nbytes
            kept = self._own.get(spec.name)
            if kept is None or kept.nbytes < need:
                address = self._cuda.allocate(need)
                if kept is not None:
                    self._cuda.free(kept.address)
                self._own[spec.name] = DeviceArray(address, shape, spec.dtype)

    def _output(self, spec: TensorSpec, outputs: Mapping[str, Any]) -> DeviceArray:
        shape = self._shape_now(spec)
        if spec.name in outputs:
            array = viewed(outputs[spec.name], spec.name, spec.dtype, shape, written=True)
            self._wait_for(array)
            return array
        self._allocate()
        return DeviceArray(self._own[spec.name].address, shape, spec.dtype)

    def _check_names(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        for given, specs, what in ((inputs, self.inputs, "inputs"), (outputs, self.output_specs, "outputs")):
            names = [spec.name for spec in specs]
            unknown = sorted(set(given) - set(names))
            if unknown:
                raise EngineError(f"the engine's {what} are {', '.join(names)}", got=unknown[0])

    def _wait_for(self, array: DeviceArray) -> None:
        """Order this session's stream behind the one that the array was written on."""
        if array.stream is not None and array.stream != self.stream:
            self._cuda.record(self._ready, array.stream)
            self._cuda.wait_event(self.stream, self._ready)

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._cuda.destroy_graph(self._graph)
            self._graph = None
