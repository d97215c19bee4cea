"""Time gpusq's INT8 exports on CPU runtimes against the dense float32 model and other static quantizers.

    OMP_NUM_THREADS=2 python benchmarks/cpu_int8_engines.py

Random weights and random calibration images: the figures are speed, not accuracy. All engines are timed in turn within
one run, once by the wall clock with --threads threads and once by process CPU time with one thread (which other load on
the host disturbs little). Engines that stand beside ours: OpenVINO on ONNX Runtime's own static S8S8 file and, where
nncf is installed, OpenVINO on nncf's file of the same dense model. Writes benchmarks/results/cpu_int8_engines.json.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpusq.engines import onnxruntime_engine, openvino_engine
from gpusq.engines.openvino_engine import OpenVinoRunner
from gpusq.latency import host_conditions, time_interleaved

RESULT = Path(__file__).parent / "results" / "cpu_int8_engines.json"
POLICIES = ("inputs", "attention")
CALIBRATION_IMAGES = 8
BASELINE, PEERS = "onnxruntime fp32 dense", ("openvino on onnxruntime s8s8", "openvino on nncf")

Images = NDArray[np.float32]


def calibration_images(shape: tuple[int, ...]) -> list[Images]:
    """CALIBRATION_IMAGES random images [1, C, H, W], the same for every quantizer."""
    random = np.random.default_rng(1)
    return [random.standard_normal((1, *shape), dtype=np.float32) for _ in range(CALIBRATION_IMAGES)]


def exported(spec: str, policy: str | None) -> tuple[bytes, tuple[int, int, int]]:
    """The ONNX file of a model, dense (policy None) or quantized, and its input shape (C, H, W)."""
    import torch

    from gpusq.graph import export_onnx, model_bytes
    from gpusq.models import attention_modules, gemm_layers, load_model
    from gpusq.quantization import calibrate, insert, place, seal_scales

    loaded = load_model(spec, classes=1000)
    shape = loaded.description.input_shape
    if policy is not None:
        layers = gemm_layers(loaded.module, loaded.keep_dense)
        insert(loaded.module, place(policy, layers, attention_modules(loaded.module), skip=loaded.keep_dense))
        calibrate(loaded.module, [torch.from_numpy(image) for image in calibration_images(shape)], "max")
        seal_scales(loaded.module)
    return model_bytes(export_onnx(loaded.module, shape)), shape


def onnxruntime_static(dense: bytes, shape: tuple[int, ...], scratch: Path) -> bytes:
    """ONNX Runtime's own static quantization: symmetric INT8, weights per channel, MatMul, Gemm and Conv."""
    from onnxruntime import quantization as tool

    class Reader(tool.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.images: Iterator[Images] = iter(calibration_images(shape))

        def get_next(self) -> dict[str, Images] | None:
            image = next(self.images, None)
            return None if image is None else {"pixel_values": image}

    source, target = scratch / "dense.onnx", scratch / "static.onnx"
    source.write_bytes(dense)
    tool.quantize_static(
        source,
        target,
        Reader(),
        quant_format=tool.QuantFormat.QDQ,
        activation_type=tool.QuantType.QInt8,
        weight_type=tool.QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["MatMul", "Gemm", "Conv"],
    )
    return target.read_bytes()


def nncf_runner(dense: bytes, shape: tuple[int, ...], threads: int) -> OpenVinoRunner | None:
    """nncf's post-training quantization with its transformer preset; None where nncf is not installed."""
    os.environ["NNCF_CI"] = "1"  # no telemetry
    try:
        import nncf
    except ImportError:
        return None
    import openvino

    core = openvino.Core()
    data = nncf.Dataset(calibration_images(shape))
    model = core.read_model(io.BytesIO(dense))
    quantized = nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=CALIBRATION_IMAGES)
    return OpenVinoRunner(core, quantized, threads)


def runners(files: dict[str, bytes], shape: tuple[int, ...], threads: int, scratch: Path) -> dict[str, Any]:
    """Every engine by name, loaded with `threads` threads."""
    made: dict[str, Any] = {}
    for name, engine in (("onnxruntime", onnxruntime_engine), ("openvino", openvino_engine)):
        for label, data in files.items():
            directory = scratch / f"{name} {label}"
            engine.build(data, directory)
            made[f"{name} {label}"] = engine.load(directory, threads)
    peer = made.pop("onnxruntime s8s8")
    del peer  # slow there, and not what is compared
    made[PEERS[0]] = made.pop("openvino s8s8")
    beside = nncf_runner(files["fp32 dense"], shape, threads)
    return made | ({} if beside is None else {PEERS[1]: beside})


def measure(made: dict[str, Any], images: Images, seconds: float, clock_ns: Callable[[], int]) -> dict[str, Any]:
    """{engine: {p50_ms, p90_ms, n, speedup}}; speedup over dense float32 ONNX Runtime, by the medians."""
    calls = {name: lambda runner=runner: runner.run(images) for name, runner in made.items()}
    timings = time_interleaved(calls, max_seconds=seconds, batch=len(images), clock_ns=clock_ns)
    base = timings[BASELINE].p50_ms
    return {
        name: {
            "p50_ms": round(timing.p50_ms, 2),
            "p90_ms": round(timing.p90_ms, 2),
            "n": timing.n,
            "speedup": round(base / timing.p50_ms, 2),
        }
        for name, timing in timings.items()
    }


def main() -> None:
    """Export, build, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="new:vit-small", help="a model as `gpusq compress --model` takes it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0, help="at least, for each engine and clock")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    dense, shape = exported(given.model, None)
    files = {"fp32 dense": dense} | {f"int8 {policy}": exported(given.model, policy)[0] for policy in POLICIES}
    images = np.random.default_rng(0).standard_normal((given.batch, *shape), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        files["s8s8"] = onnxruntime_static(dense, shape, scratch)
        wall = measure(runners(files, shape, given.threads, scratch), images, given.seconds, time.perf_counter_ns)
        cpu = measure(runners(files, shape, 1, scratch), images, given.seconds, time.process_time_ns)
    content = {
        "command": f"OMP_NUM_THREADS={given.threads} python benchmarks/cpu_int8_engines.py --model {given.model}"
        f" --threads {given.threads} --batch {given.batch} --seconds {given.seconds:g}",
        "how": "engines timed in turn in one run; speedup over dense float32 ONNX Runtime by medians; random weights",
        "model": given.model,
        "batch": given.batch,
        "bytes": {name: len(data) for name, data in files.items()},
        "host": host_conditions(),
        f"wall clock, {given.threads} threads": wall,
        "process CPU time, 1 thread": cpu,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for name, row in wall.items():
        own = cpu[name]
        both = f"{row['p50_ms']:8.2f} ms {row['speedup']:5.2f}x  CPU {own['p50_ms']:8.2f} ms {own['speedup']:5.2f}x"
        print(f"{name:32s} {both}")


if __name__ == "__main__":
    main()
