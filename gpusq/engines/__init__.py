"""One file per builder and runner: OpenVINO, ONNX Runtime, TensorRT-RTX, TensorRT and the bundle a device finishes.

`tensorrt_rtx` is not imported here, since it is also run as a program (`python -m gpusq.engines.tensorrt_rtx`).
"""

from gpusq.engines.bundle import BatchProfile, Bundle, write_bundle
from gpusq.engines.cpu import CpuChoice, choose_cpu, load_cpu
from gpusq.engines.rtx_layers import PlanLayer, RtxCheck
from gpusq.engines.runner import Runner, cpu_threads
from gpusq.engines.sealed_bundle import read_bundle

__all__ = [
    "BatchProfile",
    "Bundle",
    "CpuChoice",
    "PlanLayer",
    "RtxCheck",
    "Runner",
    "choose_cpu",
    "cpu_threads",
    "load_cpu",
    "read_bundle",
    "write_bundle",
]
