"""TensorRT and TensorRT-RTX: one builder for every version, what it built read back, and how it refuses."""

from gpusq.engines.tensorrt.build import build_plan
from gpusq.engines.tensorrt.engine_layer import EngineLayer
from gpusq.engines.tensorrt.features import Features
from gpusq.engines.tensorrt.inspector import layers_of, read_profile
from gpusq.engines.tensorrt.library import BUILDERS, load_library
from gpusq.engines.tensorrt.log import LogFacts, parse_log
from gpusq.engines.tensorrt.plan import BuildProgress, BuiltPlan, Memory, PlanOptions
from gpusq.engines.tensorrt.profiler import make_profiler

__all__ = [
    "BUILDERS",
    "BuildProgress",
    "BuiltPlan",
    "EngineLayer",
    "Features",
    "LogFacts",
    "Memory",
    "PlanOptions",
    "build_plan",
    "layers_of",
    "load_library",
    "make_profiler",
    "parse_log",
    "read_profile",
]
