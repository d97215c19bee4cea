"""GEMMs and encoders on a CUDA device through torch: dense, and 2:4 through cuSPARSELt; timed inside CUDA graphs.

Not exercised by the tests on a machine without a GPU, except for what it refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpusq.errors import EngineError, GpusqError, MissingExtraError

CALLS_IN_GRAPH = 10
"""Calls captured in one graph, so that what the host adds to each is small beside the kernel."""
Shape = tuple[int, int, int]


class CudaDevice:
    """The current CUDA device of torch. Raises MissingExtraError without torch, EngineError without a device."""

    def __init__(self) -> None:
        try:
            import torch
        except ImportError as error:
            raise MissingExtraError("torch", "host", "measuring GEMMs") from error
        if not torch.cuda.is_available():
            raise EngineError(
                "calibrate measures on a CUDA device",
                got="none that torch can use",
                do="run it on the device, or give measured rows: --csv FILE (gpu,dtype,sparsity,m,n,k,latency_us)",
            )
        self._torch: Any = torch

    def conditions(self) -> dict[str, str]:
        """Device, compute capability, and the libraries in use."""
        torch = self._torch
        major, minor = torch.cuda.get_device_capability()
        found = {
            "device": torch.cuda.get_device_name(),
            "compute capability": f"{major}.{minor}",
            "torch": torch.__version__,
            "CUDA": str(torch.version.cuda),
            "driver": _driver(),
            "calls in one graph": str(CALLS_IN_GRAPH),
        }
        version = getattr(torch.backends, "cusparselt", None)
        return found | ({"cuSPARSELt": str(version.version())} if version and version.is_available() else {})

    def gemm(self, dtype: str, sparsity: str, shape: Shape) -> Callable[[], float]:
        """Activations [m, k] times a weight [n, k]; INT8 writes INT32 dense and bfloat16 at 2:4."""
        m, n, k = shape
        torch = self._torch
        x, weight = self._operand(dtype, m, k), self._operand(dtype, n, k)
        try:
            if sparsity == "2:4":
                return self._captured(self._sparse_call(x, weight, dtype))
            multiply = torch._int_mm if dtype == "int8" else torch.mm
            return self._captured(lambda: multiply(x, weight.t()))
        except (RuntimeError, AttributeError) as error:
            raise _refused(f"{dtype} {sparsity} GEMM {shape}", error) from error

    def encoder(self, dtype: str, sparsity: str, sizes: tuple[int, ...]) -> Callable[[], float]:
        """A pre-norm encoder compiled by torch, float and dense only: torch has no compiled 2:4 INT8 encoder."""
        torch = self._torch
        if dtype not in ("fp16", "bf16") or sparsity != "dense":
            raise EngineError("encoders are measured in fp16 or bf16, dense", got=f"{dtype} {sparsity}")
        from gpusq.latency.torch_encoder import make_encoder

        layers, width, heads, mlp, tokens, batch = sizes
        kind = torch.float16 if dtype == "fp16" else torch.bfloat16
        try:
            module = make_encoder(layers, width, heads, mlp).to("cuda", kind).eval()
            x = torch.randn(batch, tokens, width, device="cuda", dtype=kind)
            compiled = torch.compile(module, mode="max-autotune-no-cudagraphs")
            with torch.inference_mode():
                return self._captured(lambda: compiled(x), calls=1)
        except RuntimeError as error:
            raise _refused(f"encoder {sizes}", error) from error

    def _operand(self, dtype: str, rows: int, columns: int) -> Any:
        torch = self._torch
        if dtype == "int8":
            return torch.randint(-64, 64, (rows, columns), device="cuda", dtype=torch.int8)
        kind = torch.float16 if dtype == "fp16" else torch.bfloat16
        return torch.randn(rows, columns, device="cuda", dtype=kind)

    def _sparse_call(self, x: Any, weight: Any, dtype: str) -> Callable[[], Any]:
        """cuSPARSELt with the algorithm that its own search finds best for this shape."""
        torch = self._torch
        weight = weight * torch.tensor([1, 0, 0, 1], device="cuda", dtype=weight.dtype).repeat(weight.shape[1] // 4)
        compressed, dense = torch._cslt_compress(weight), x.t()
        out = {"out_dtype": torch.bfloat16} if dtype == "int8" else {}
        algorithm = int(torch._cslt_sparse_mm_search(compressed, dense, **out))
        return lambda: torch._cslt_sparse_mm(compressed, dense, alg_id=algorithm, transpose_result=True, **out)

    def _captured(self, call: Callable[[], Any], calls: int = CALLS_IN_GRAPH) -> Callable[[], float]:
        """One measurement: microseconds of a call by events around a graph of several."""
        torch = self._torch
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(calls):
                call()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

        def measure() -> float:
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end)) * 1e3 / calls

        return measure


def _refused(what: str, error: Exception) -> GpusqError:
    reason = " ".join(str(error).split())[:160]
    return EngineError(f"this device runs a {what}", got=f"{type(error).__name__}: {reason}")


def _driver() -> str:
    """The driver's version where pynvml is installed."""
    try:
        import pynvml
    except ImportError:
        return "not stated"
    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return "not stated"
