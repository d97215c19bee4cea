"""The machine that engines are built and run on: the builder's library, and the device where there is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpusq.errors import EngineError, MissingExtraError

if TYPE_CHECKING:
    from gpusq.engines.cuda import Cuda, Device
    from gpusq.latency.clocks import Clocks

AHEAD_OF_TIME = "tensorrt-rtx"
"""The builder that needs no GPU."""


@dataclass(frozen=True)
class Gpu:
    """A device that can be used: its facts, CUDA on it, and its clocks."""

    device: Device
    cuda: Cuda
    clocks: Clocks


@dataclass(frozen=True)
class Machine:
    """builder: its name. trt: its module. gpu: None where there is none that can be used; absent then says why."""

    builder: str
    trt: Any
    gpu: Gpu | None
    absent: str = ""

    @property
    def device(self) -> Device | None:
        """The device's facts, where there is one."""
        return self.gpu.device if self.gpu else None


MachineOf = Callable[[str], Machine]
"""Builder to machine; `open_machine`, or a stand-in in tests."""


def open_machine(builder: str) -> Machine:
    """The library of this builder and the device at hand.

    Raises MissingExtraError where the library is not installed; for TensorRT also where cuda-python is not.
    """
    from gpusq.engines.tensorrt import load_library

    trt = load_library(builder)
    try:
        gpu = open_gpu()
    except MissingExtraError as error:
        if builder != AHEAD_OF_TIME:
            raise
        return Machine(builder, trt, None, f"no GPU that can be used ({error.what})")
    except EngineError as error:
        return Machine(builder, trt, None, f"no GPU ({error.got or error.what})")
    return Machine(builder, trt, gpu)


def open_gpu() -> Gpu:
    """The first device. Raises MissingExtraError without cuda-python, EngineError without a device."""
    from gpusq.engines.cuda import open_cuda
    from gpusq.latency.clocks import open_clocks

    cuda = open_cuda()
    device = cuda.device()
    return Gpu(device, cuda, open_clocks(device.pci))
