"""A plan on a GPU: deserialized, its inputs and outputs by name.

Written against TensorRT 10.3 to 11.x and TensorRT-RTX 1.7 (named tensors). A plan is executable content: take it from
`gpusq.engines.compatibility.loadable_plan`, which checks the seal and this machine first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpusq.engines.cuda import Cuda
from gpusq.engines.device_arrays import type_of
from gpusq.errors import EngineError

KEPT_MESSAGES = 20


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: its type and shape, -1 for the sizes that may vary; largest: at the profile's maximum."""

    name: str
    is_input: bool
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    largest: tuple[int, ...]


class DeviceEngine:
    """A deserialized plan. It holds the weights; each session has its own buffers and stream."""

    def __init__(self, plan: bytes, trt: Any, cuda: Cuda) -> None:
        """Raises EngineError with the library's own message where it refuses the plan."""
        self.cuda, self.trt, self.log = cuda, trt, _log(trt)
        self._runtime = trt.Runtime(self.log)  # must outlive the engine
        self.engine = self._runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise self.refused("deserialize the plan", "build it again on this device: gpusq build BUNDLE")
        self.specs = {name: self._spec(name) for name in map(self.engine.get_tensor_name, range(self._count()))}

    def refused(self, what: str, do: str = "run: gpusq doctor") -> EngineError:
        """The error for a call that the library refused, with its last messages."""
        return EngineError(f"{self.trt.__name__} must {what}", got=" | ".join(self.log.messages[-3:]), do=do)

    def _count(self) -> int:
        return int(self.engine.num_io_tensors)

    def _spec(self, name: str) -> TensorSpec:
        engine, trt = self.engine, self.trt
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        shape = tuple(int(size) for size in engine.get_tensor_shape(name))
        largest = tuple(engine.get_tensor_profile_shape(name, 0)[2]) if is_input and -1 in shape else shape
        return TensorSpec(name, is_input, type_of(engine.get_tensor_dtype(name)), shape, largest)


def _log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps the last warnings and errors: the reasons of a refusal."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING):
                self.messages = [*self.messages[1 - KEPT_MESSAGES :], message.strip()]

    return Log()
