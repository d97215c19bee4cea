"""OpenVINO on a CPU: IR made from the float32 Q/DQ model, computed in float32 and INT8 and nothing else."""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

from gpusq.engines.runner import Float32, check_batch, main_output, no_engine
from gpusq.errors import EngineError, MissingExtraError

GRAPH, WEIGHTS = "engine.xml", "engine.bin"
KEPT_BATCH_SIZES = 4


class OpenVinoRunner:
    """A model compiled once per batch size on first use (fixed shapes run a few per cent faster). Implements Runner.

    The last KEPT_BATCH_SIZES sizes stay compiled.
    """

    name = "openvino"

    def __init__(self, core: Any, model: Any, threads: int) -> None:
        self._core, self._model, self._threads = core, model, threads
        size, *shape = model.input(0).partial_shape
        self._size = None if size.is_dynamic else size.get_length()
        self._shape = tuple(dimension.get_length() for dimension in shape)
        self._names = [output.get_any_name() for output in model.outputs]
        self._requests: OrderedDict[int, Any] = OrderedDict()

    def outputs(self, pixel_values: Float32) -> dict[str, Float32]:
        """[B, C, H, W] float32 -> {output name: [B, ...]}, fresh arrays."""
        batch = check_batch(pixel_values, self._shape, self.name, self._size)
        found = self._request(len(batch)).infer({0: batch}, share_inputs=True)
        return {name: found[position].copy() for position, name in enumerate(self._names)}

    def run(self, pixel_values: Float32) -> Float32:
        """[B, C, H, W] float32 -> the logits, [B, classes] or [B, queries, classes] float32, a fresh array."""
        return main_output(self.outputs(pixel_values))

    def _request(self, size: int) -> Any:
        if size not in self._requests:
            while len(self._requests) >= KEPT_BATCH_SIZES:
                self._requests.popitem(last=False)
            self._requests[size] = self._compile(size).create_infer_request()
        self._requests.move_to_end(size)
        return self._requests[size]

    def _compile(self, size: int) -> Any:
        fixed = self._model.clone()
        fixed.reshape([size, *self._shape])
        settings = {
            "INFERENCE_NUM_THREADS": self._threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the CPU has it: not what was checked
        }
        try:
            return self._core.compile_model(fixed, "CPU", settings)
        except RuntimeError as error:
            raise EngineError("openvino: the model did not compile", got=str(error).splitlines()[0]) from error


def build(onnx_model: bytes, directory: Path) -> None:
    """Write DIRECTORY/engine.xml and engine.bin from a float32 Q/DQ model; equal models give equal files.

    Weights are stored as they are in the model: INT8 stays INT8, float32 is not compressed.
    Raises EngineError where OpenVINO cannot read the model.
    """
    ov = _openvino()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        model = ov.Core().read_model(io.BytesIO(onnx_model))
    except RuntimeError as error:
        raise EngineError("openvino: the ONNX model could not be read", got=str(error).splitlines()[0]) from error
    _name_by_position(model)
    ov.serialize(model, directory / GRAPH, directory / WEIGHTS)


def _name_by_position(model: Any) -> None:
    """Rename operators that the reader made: it counts them up over the whole process, so files would differ."""
    for position, operator in enumerate(model.get_ordered_ops()):
        kind, _, number = operator.get_friendly_name().rpartition("_")
        if kind == operator.get_type_name() and number.isdigit():
            operator.set_friendly_name(f"{kind}_at_{position}")


def load(directory: Path, threads: int) -> OpenVinoRunner:
    """A runner with `threads` threads, compiled for latency. Raises EngineError, MissingExtraError."""
    ov = _openvino()
    if not (directory / GRAPH).is_file() or not (directory / WEIGHTS).is_file():
        raise no_engine(directory, f"{GRAPH} with {WEIGHTS}")
    core = ov.Core()
    try:
        model = core.read_model((directory / GRAPH).read_bytes(), (directory / WEIGHTS).read_bytes())
    except RuntimeError as error:
        raise no_engine(directory, GRAPH, error) from error
    if len(model.inputs) != 1 or not model.outputs:
        raise EngineError(f"{directory / GRAPH}: one input and at least one output were expected")
    return OpenVinoRunner(core, model, threads)


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "host", "the CPU engine") from error
    return openvino
