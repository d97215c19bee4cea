"""Memory on the device that is shared without copies, through `__cuda_array_interface__` (torch, cupy, pycuda, numba).

The interface is version 3 of https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpusq.errors import EngineError

VERSION = 3
LEGACY_STREAM, PER_THREAD_STREAM = 1, 2
TYPES = {
    "FLOAT": "<f4",
    "HALF": "<f2",
    "INT8": "|i1",
    "UINT8": "|u1",
    "INT32": "<i4",
    "INT64": "<i8",
    "BOOL": "|b1",
}
"""TensorRT's DataType names that numpy and the array interface can say."""


def type_of(dtype: Any) -> np.dtype[Any]:
    """The numpy type of a TensorRT DataType. Raises EngineError for one that numpy has no name for."""
    name = getattr(dtype, "name", str(dtype))
    if name not in TYPES:
        raise EngineError(
            f"inputs and outputs of an engine must be one of {', '.join(TYPES)}",
            got=name,
            do="cast at the border of the network, as gpusq export does",
        )
    return np.dtype(TYPES[name])


@dataclass(frozen=True)
class DeviceArray:
    """Contiguous memory on the device: address, shape and type; `stream` orders whoever reads it after its writer.

    The memory belongs to whoever allocated it: an output of a runner is valid until its next run.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stream: int | None = None

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """What torch.as_tensor, cupy.asarray and numba read."""
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "version": VERSION,
            "stream": self.stream,
        }

    @property
    def nbytes(self) -> int:
        """Bytes from the first to the last element."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def viewed(value: Any, name: str, dtype: np.dtype[Any], shape: Sequence[int], *, written: bool = False) -> DeviceArray:
    """A foreign array on the device, checked and not copied.

    shape: expected, -1 for any size. written: it is an output, so it must not be read-only.
    Raises EngineError naming the tensor where it is no device array, or type, shape or memory layout do not fit.
    """
    given = getattr(value, "__cuda_array_interface__", None)
    if given is None:
        raise EngineError(
            f"{name} must offer __cuda_array_interface__ (torch, cupy, pycuda, numba)",
            got=type(value).__name__,
            do="put it on the device first, or pass numpy arrays to run()",
        )
    found = np.dtype(given["typestr"])
    if found != dtype:
        raise EngineError(f"{name} must be {dtype.name}", got=found.name, do="convert it on the device")
    if not _fits(given["shape"], shape):
        wanted = ", ".join("any" if size < 0 else str(size) for size in shape)
        raise EngineError(f"{name} must have shape [{wanted}]", got=str(list(given["shape"])))
    if not _is_contiguous(given["shape"], given.get("strides"), found.itemsize):
        raise EngineError(f"{name} must be contiguous", got=f"strides {given['strides']}", do="call .contiguous()")
    address, read_only = given["data"]
    if written and read_only:
        raise EngineError(f"{name} is written to", got="read-only memory", do="pass memory that may be written")
    if not address and 0 not in given["shape"]:
        raise EngineError(f"{name} must lie on the device", got="address 0")
    stream = given.get("stream")
    if stream == 0:
        raise EngineError(f"{name} names the stream that it is ready on", got="0, which the interface forbids")
    return DeviceArray(int(address), tuple(given["shape"]), found, stream)


def _fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    return len(shape) == len(wanted) and all(w < 0 or s == w for s, w in zip(shape, wanted, strict=True))


def _is_contiguous(shape: Sequence[int], strides: Sequence[int] | None, itemsize: int) -> bool:
    """Whether the strides (bytes) are those of C order; axes of one element may have any."""
    if strides is None or 0 in shape:
        return True
    expected = itemsize
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
