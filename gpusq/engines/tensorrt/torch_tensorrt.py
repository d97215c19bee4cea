"""The second builder: torch-tensorrt, from an exported program, for graphs that the ONNX parser cannot take.

Float models only: torch-tensorrt knows no converter for this project's quantizers, and the Q/DQ graph is ONNX.
Its entry point was read from torch-tensorrt 2.13, which asks for TensorRT 11.0 and a GPU; tested at this boundary only.
Releases from 2.9 to at least 2.12 have no build for Jetson Orin.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import time
from typing import TYPE_CHECKING, Any

from gpusq.engines.tensorrt.inspector import inspect_plan
from gpusq.engines.tensorrt.memory import PeakMemory
from gpusq.engines.tensorrt.plan import BuiltPlan, Memory, PlanOptions, Shapes
from gpusq.engines.tensorrt.refusals import build_refusal
from gpusq.errors import EngineError, MissingExtraError, UsageError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

CONVERT = "convert_exported_program_to_serialized_trt_engine"
MIB = 1 << 20
OUTPUT = "output{}"
"""How torch-tensorrt names the outputs of a plan, in the order in which the model returns them."""
QUANTIZERS = "gpusq."
"""Namespace of the fake-quantize operators in an exported program."""


def build_exported(program: ExportedProgram, options: PlanOptions) -> BuiltPlan:
    """Build the whole exported program as one plan.

    program: float, exported with the inputs of the one profile in `options`, in order. `onnx_sha256` of the result is
    the hash of its graph as text, since there is no ONNX file. Raises MissingExtraError
    without torch-tensorrt, UsageError for options that it does not take, UnsupportedNodeError, BuildMemoryError or
    EngineError where it refuses.
    """
    _check(program, options)
    convert, torch_tensorrt = _library()
    inputs = [_input(torch_tensorrt, shapes) for shapes in options.profiles[0].values()]
    start = time.monotonic()
    with PeakMemory() as memory:
        try:
            plan = bytes(convert(program, arg_inputs=inputs, **_settings(convert, options)))
        except Exception as error:
            raise build_refusal([], [str(error) or repr(error)], "torch_tensorrt", memory.sample()) from error
    return _built(program, options, plan, torch_tensorrt, time.monotonic() - start, memory.peak_mib)


def check_installed() -> None:
    """Raise MissingExtraError without torch-tensorrt, EngineError where it does not start or is too old."""
    _library()


def _check(program: ExportedProgram, options: PlanOptions) -> None:
    if len(options.profiles) != 1:
        raise UsageError("torch-tensorrt takes one optimization profile", got=str(len(options.profiles)))
    if options.compute_capabilities or options.timing_cache is not None:
        raise UsageError(
            "torch-tensorrt builds on the device, with a timing cache of its own",
            got="compute capabilities or a timing cache",
            do="leave them out",
        )
    quantizers = [str(node.target) for node in program.graph.nodes if str(node.target).startswith(QUANTIZERS)]
    if quantizers:
        raise EngineError(
            "torch-tensorrt builds float models only",
            got=f"{len(quantizers)} quantizers ({quantizers[0]})",
            do="build the quantized model from its ONNX file",
        )


def _library() -> tuple[Any, Any]:
    """(the conversion function, the module)."""
    try:
        module = importlib.import_module("torch_tensorrt")
        dynamo = importlib.import_module("torch_tensorrt.dynamo")
    except ImportError as error:
        raise MissingExtraError("torch-tensorrt", "torch-tensorrt", "building without ONNX") from error
    except (AssertionError, OSError, RuntimeError) as error:  # it looks for CUDA while it is imported
        raise EngineError("torch-tensorrt must start", got=str(error), do="it needs a GPU with its driver") from error
    convert = getattr(dynamo, CONVERT, None)
    if convert is None:
        raise EngineError(f"torch_tensorrt.dynamo must have {CONVERT}", got="an older version", do="upgrade it")
    return convert, module


def _input(torch_tensorrt: Any, shapes: Shapes) -> Any:
    low, best, high = shapes
    return torch_tensorrt.Input(min_shape=low, opt_shape=best, max_shape=high)


def _settings(convert: Any, options: PlanOptions) -> dict[str, Any]:
    """Settings in the words of this version: types as the program has them, which newer versions always do."""
    known = inspect.signature(convert).parameters
    settings: dict[str, Any] = {"sparse_weights": options.sparse, "require_full_compilation": True}
    if options.workspace_mib is not None:
        settings["workspace_size"] = options.workspace_mib * MIB
    if "use_explicit_typing" in known:
        settings["use_explicit_typing"] = True
    return settings


def _built(
    program: ExportedProgram, options: PlanOptions, plan: bytes, module: Any, seconds: float, peak_mib: float
) -> BuiltPlan:
    from gpusq.engines.tensorrt.callbacks import Callbacks, make_log
    from gpusq.engines.tensorrt.library import load_library

    trt = load_library("tensorrt")
    log = make_log(trt, Callbacks(None, PeakMemory()), from_log=False)
    inspected, problem = inspect_plan(trt, plan, log, options.profiles[0])
    return BuiltPlan(
        plan=plan,
        library="tensorrt",
        version=f"{trt.__version__} (torch-tensorrt {module.__version__})",
        onnx_sha256=hashlib.sha256(str(program.graph).encode()).hexdigest(),
        sparse=options.sparse,
        compute_capabilities=(),
        messages=tuple(log.messages),
        layer_dump="",
        inspector_json=inspected,
        timing_cache=None,
        timing_cache_in_sha256=None,
        seconds=seconds,
        memory=Memory(peak_mib),
        warnings=tuple(log.warnings) + ((problem,) if problem else ()),
    )
