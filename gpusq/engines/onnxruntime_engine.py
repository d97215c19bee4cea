"""ONNX Runtime on a CPU: the Q/DQ file itself, with the session options that keep its matmuls in INT8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpusq.engines.runner import Float32, check_batch, main_output, no_engine
from gpusq.errors import EngineError, MissingExtraError

FILE = "model.onnx"

# Optimizers that undo the Q/DQ placement:
# CommonSubexpressionElimination merges the pairs of q, k and v; only one of the three matmuls then stays INT8.
# QDQPropagationTransformer pushes INT8 pairs through a Transpose as UINT8 and then refuses its own graph.
# MatMulAddFusion makes float Gemms of INT8 matmuls where the batch is static.
DISABLED_OPTIMIZERS = ("CommonSubexpressionElimination", "QDQPropagationTransformer", "MatMulAddFusion")


class OnnxRuntimeRunner:
    """A session on the CPU. Implements Runner."""

    name = "onnxruntime"

    def __init__(self, session: Any) -> None:
        self._session = session
        self._input = session.get_inputs()[0]
        self._size = self._input.shape[0] if isinstance(self._input.shape[0], int) else None
        self._shape = tuple(self._input.shape[1:])
        self._names = [output.name for output in session.get_outputs()]

    def outputs(self, pixel_values: Float32) -> dict[str, Float32]:
        """[B, C, H, W] float32 -> {output name: [B, ...]}."""
        batch = check_batch(pixel_values, self._shape, self.name, self._size)
        return dict(zip(self._names, self._session.run(self._names, {self._input.name: batch}), strict=True))

    def run(self, pixel_values: Float32) -> Float32:
        """[B, C, H, W] float32 -> the logits, [B, classes] or [B, queries, classes] float32."""
        return main_output(self.outputs(pixel_values))


def build(onnx_model: bytes, directory: Path) -> None:
    """Write the float32 Q/DQ model as DIRECTORY/model.onnx. Raises EngineError where ONNX Runtime cannot load it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / FILE).write_bytes(onnx_model)
    load(directory, threads=1)


def load(directory: Path, threads: int) -> OnnxRuntimeRunner:
    """A runner with `threads` threads that do not spin after a call. Raises EngineError, MissingExtraError."""
    path = directory / FILE
    if not path.is_file():
        raise no_engine(directory, FILE)
    return load_bytes(path.read_bytes(), threads, where=str(directory))


def load_bytes(onnx_model: bytes, threads: int, where: str = "the ONNX model") -> OnnxRuntimeRunner:
    """As `load`, from the bytes of a model; `where` names it in errors."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "host", "running the CPU engine") from error
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = ort.InferenceSession(
            onnx_model, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(DISABLED_OPTIMIZERS)
        )
    except Exception as error:
        raise no_engine(where, FILE, error) from error
    if len(session.get_inputs()) != 1 or not session.get_outputs():
        raise EngineError(f"{where}: one input and at least one output were expected")
    return OnnxRuntimeRunner(session)
