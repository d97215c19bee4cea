"""The one place that talks to CUDA: what the device side needs of cuda-python, as one small protocol.

Everything above takes a `Cuda`; tests give it a fake. Addresses, streams, events and graphs are plain integers.
Names and layouts were read from cuda-python 12.6.2 and 13.4.4; neither has been run on a device by this project yet.
"""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpusq.errors import EngineError, MissingExtraError

MODULES = ("cuda.bindings.runtime", "cuda.cudart")
"""Where the runtime API is: since cuda-python 12.6, and before it."""
NON_BLOCKING = 1  # cudaStreamNonBlocking: no implicit ordering with the legacy default stream
CALLS = (
    "cudaGetDeviceCount", "cudaSetDevice", "cudaGetDeviceProperties", "cudaDriverGetVersion", "cudaRuntimeGetVersion",
    "cudaDeviceGetPCIBusId", "cudaMalloc", "cudaFree", "cudaMemcpyAsync", "cudaStreamCreateWithFlags",
    "cudaStreamDestroy", "cudaStreamSynchronize", "cudaStreamWaitEvent", "cudaStreamBeginCapture",
    "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphLaunch", "cudaGraphExecDestroy", "cudaGraphDestroy",
    "cudaEventCreate", "cudaEventRecord", "cudaEventElapsedTime", "cudaEventDestroy", "cudaGetErrorName",
    "cudaMemcpyKind", "cudaStreamCaptureMode",
)  # fmt: skip
"""Every name that is used of the runtime API; a test compares them with the installed module."""


@dataclass(frozen=True)
class Device:
    """One GPU. capability: "8.0"; driver, runtime: CUDA versions such as "12.6"; pci: "0000:01:00.0" or empty."""

    name: str
    capability: str
    memory_bytes: int
    driver: str
    runtime: str
    pci: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


class Cuda(Protocol):
    """What the runner and the stopwatch need of a device. Every method raises EngineError where CUDA refuses."""

    def device(self) -> Device:
        """The device in use."""
        ...

    def allocate(self, nbytes: int) -> int:
        """Address of at least one byte of device memory."""
        ...

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""
        ...

    def to_device(self, address: int, array: NDArray[Any], stream: int) -> None:
        """Queue the copy of a contiguous array to `address`; the array must live until the stream is synchronised."""
        ...

    def to_host(self, array: NDArray[Any], address: int, stream: int) -> None:
        """Queue the copy from `address` into a contiguous array."""
        ...

    def stream(self) -> int:
        """A new stream."""
        ...

    def synchronize(self, stream: int) -> None:
        """Wait until everything queued on the stream is done."""
        ...

    def destroy_stream(self, stream: int) -> None:
        """Give back a stream."""
        ...

    def event(self) -> int:
        """A new event that can be timed."""
        ...

    def record(self, event: int, stream: int) -> None:
        """Queue the event on the stream."""
        ...

    def wait_event(self, stream: int, event: int) -> None:
        """Make the stream wait for the event."""
        ...

    def elapsed_ms(self, start: int, end: int) -> float:
        """Milliseconds between two recorded events that are done."""
        ...

    def destroy_event(self, event: int) -> None:
        """Give back an event."""
        ...

    def begin_capture(self, stream: int) -> None:
        """Collect what is queued on the stream from now on instead of running it."""
        ...

    def end_capture(self, stream: int) -> int:
        """The executable graph of what was collected."""
        ...

    def launch(self, graph: int, stream: int) -> None:
        """Queue a graph on the stream."""
        ...

    def destroy_graph(self, graph: int) -> None:
        """Give back a graph."""
        ...


def open_cuda(index: int = 0) -> Cuda:
    """The device number `index`.

    Raises MissingExtraError without cuda-python, EngineError where there is no driver or no such device.
    """
    return CudaRuntime(runtime_module(), index)


def runtime_module() -> Any:
    """The runtime API of cuda-python, wherever this version keeps it. Raises MissingExtraError."""
    for name in MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise MissingExtraError("cuda-python", "gpu", "running an engine on a GPU")


def missing_names(runtime: Any) -> tuple[str, ...]:
    """Those of CALLS that a runtime module lacks; empty for one that fits."""
    return tuple(name for name in CALLS if not hasattr(runtime, name))


class CudaRuntime:
    """`Cuda` on the runtime API of cuda-python. Handles are kept, since an integer does not hold its object alive."""

    def __init__(self, runtime: Any, index: int = 0) -> None:
        self._runtime, self._index = runtime, index
        self._handles: dict[int, Any] = {}
        count = self._call("cudaGetDeviceCount")
        if index >= count:
            raise EngineError(f"CUDA device {index} must be there", got=f"{count} devices", do="run: nvidia-smi")
        self._call("cudaSetDevice", index)

    def device(self) -> Device:
        found = self._call("cudaGetDeviceProperties", self._index)
        name = found.name.decode(errors="replace") if isinstance(found.name, bytes) else str(found.name)
        return Device(
            name=name.rstrip("\0"),
            capability=f"{found.major}.{found.minor}",
            memory_bytes=int(found.totalGlobalMem),
            driver=_version(self._call("cudaDriverGetVersion")),
            runtime=_version(self._call("cudaRuntimeGetVersion")),
            pci=_text(self._call("cudaDeviceGetPCIBusId", 32, self._index)),
        )

    def allocate(self, nbytes: int) -> int:
        return int(self._call("cudaMalloc", max(1, nbytes)))

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def to_device(self, address: int, array: NDArray[Any], stream: int) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, _contiguous(array), array.nbytes, kind, stream)

    def to_host(self, array: NDArray[Any], address: int, stream: int) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", _contiguous(array), address, array.nbytes, kind, stream)

    def stream(self) -> int:
        return self._keep(self._call("cudaStreamCreateWithFlags", NON_BLOCKING))

    def synchronize(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", stream)

    def destroy_stream(self, stream: int) -> None:
        self._call("cudaStreamDestroy", self._handles.pop(stream, stream))

    def event(self) -> int:
        return self._keep(self._call("cudaEventCreate"))

    def record(self, event: int, stream: int) -> None:
        self._call("cudaEventRecord", event, stream)

    def wait_event(self, stream: int, event: int) -> None:
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def elapsed_ms(self, start: int, end: int) -> float:
        return float(self._call("cudaEventElapsedTime", start, end))

    def destroy_event(self, event: int) -> None:
        self._call("cudaEventDestroy", self._handles.pop(event, event))

    def begin_capture(self, stream: int) -> None:
        # Thread-local: another thread that allocates meanwhile does not spoil the capture.
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> int:
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return self._keep(self._call("cudaGraphInstantiate", graph, 0))
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        self._call("cudaGraphExecDestroy", self._handles.pop(graph, graph))

    def _keep(self, handle: Any) -> int:
        number = int(handle)
        self._handles[number] = handle
        return number

    def _call(self, name: str, *arguments: Any) -> Any:
        """One runtime call: its result without the error code. Raises EngineError with CUDA's name of the error."""
        try:
            code, *results = getattr(self._runtime, name)(*arguments)
        except RuntimeError as error:  # cuda-python 12.6 raises where the driver library is not found
            raise _refused(name, str(error)) from error
        if int(code) != 0:
            raise _refused(name, _text(self._runtime.cudaGetErrorName(code)[1]))
        return results[0] if len(results) == 1 else tuple(results)


def _refused(name: str, got: str) -> EngineError:
    hints = {
        "cudaErrorInsufficientDriver": "there is no NVIDIA driver, or it is older than this CUDA: update the driver",
        "cudaErrorNoDevice": "there is no GPU that this process may use: run nvidia-smi",
        "cudaErrorMemoryAllocation": "free memory on the device, or build with a smaller --max-batch",
    }
    do = hints.get(got, "there is no NVIDIA driver" if "libcuda" in got else "run: gpusq doctor")
    return EngineError(f"{name} must succeed", got=got, do=do)


def _contiguous(array: NDArray[Any]) -> int:
    """The address of the array's bytes. Raises EngineError for an array with gaps."""
    if not array.flags.c_contiguous:
        raise EngineError("a copy to or from the device needs contiguous memory", got=f"strides {array.strides}")
    return int(np.asarray(array).ctypes.data)


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _text(value: Any) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text.partition("\0")[0]
