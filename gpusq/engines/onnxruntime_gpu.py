"""ONNX Runtime on a GPU, to compare with: the same file through its CUDA or its TensorRT execution provider.

`get_available_providers` lists what was compiled in, not what works, and a session whose provider fails to start goes
on with the CPU after printing an error. So the session is asked what it really runs on, and another answer is refused.
Tested at this boundary only; not yet run on a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from gpusq.engines.onnxruntime_engine import OnnxRuntimeRunner
from gpusq.engines.runner import no_engine
from gpusq.errors import EngineError, UsageError

Provider = Literal["cuda", "tensorrt"]
PROVIDERS: dict[str, str] = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
INSTALL = (
    "install the GPU build in an environment of its own: pip uninstall onnxruntime && pip install onnxruntime-gpu "
    "(the two share one import name and must not be installed together)"
)


class GpuRunner(OnnxRuntimeRunner):
    """A session on a GPU. Implements Runner; `providers`: what it really runs on, in order."""

    def __init__(self, session: Any, provider: Provider) -> None:
        super().__init__(session)
        self.name = f"onnxruntime-{provider}"
        self.providers = tuple(session.get_providers())


def load_gpu(
    onnx_model: bytes,
    provider: Provider,
    *,
    device: int = 0,
    cache: Path | None = None,
    allow_cpu_nodes: bool = True,
    where: str = "the ONNX model",
) -> GpuRunner:
    """A runner on GPU number `device`.

    cache: directory for the TensorRT provider's engines, which are of this device. allow_cpu_nodes: False refuses a
    graph of which any node is left to the CPU, shape arithmetic too. `where` names the model in errors.
    Raises UsageError for another provider, EngineError where the provider is not there or did not start.
    """
    check_provider(provider)
    ort = _onnxruntime(PROVIDERS[provider])
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not allow_cpu_nodes:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = ort.InferenceSession(onnx_model, options, providers=_providers(provider, device, cache))
    except Exception as error:
        raise no_engine(where, PROVIDERS[provider], error) from error
    _check(session, PROVIDERS[provider])
    return GpuRunner(session, provider)


def check_provider(provider: str) -> str:
    """The version of the installed ONNX Runtime. Raises UsageError for another provider, EngineError without its build.

    Whether the provider starts on the GPU only a session tells: `load_gpu`.
    """
    if provider not in PROVIDERS:
        raise UsageError(f"a provider is one of {', '.join(PROVIDERS)}", got=repr(provider), do="name one of them")
    return str(_onnxruntime(PROVIDERS[provider]).__version__)


def _onnxruntime(wanted: str) -> Any:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise EngineError(f"ONNX Runtime with {wanted} is needed", got="no onnxruntime", do=INSTALL) from error
    if wanted not in ort.get_available_providers():
        raise EngineError(f"ONNX Runtime with {wanted} is needed", got="a build for the CPU", do=INSTALL)
    return ort


def _providers(provider: Provider, device: int, cache: Path | None) -> list[tuple[str, dict[str, Any]]]:
    """The provider with its options; what TensorRT does not take goes to CUDA."""
    own: dict[str, Any] = {"device_id": device}
    if provider == "tensorrt" and cache is not None:
        own |= {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(cache), "trt_timing_cache_enable": True}
    chain = [(PROVIDERS[provider], own)]
    return chain if provider == "cuda" else [*chain, (PROVIDERS["cuda"], {"device_id": device})]


def _check(session: Any, wanted: str) -> None:
    running = list(session.get_providers())
    if not running or running[0] != wanted:
        raise EngineError(
            f"the session must run on {wanted}",
            got=f"{', '.join(running) or 'nothing'}: the provider did not start and ONNX Runtime fell back in silence",
            do="check the driver, CUDA and cuDNN (and TensorRT) versions that this onnxruntime-gpu was built for; "
            "run: gpusq doctor",
        )
