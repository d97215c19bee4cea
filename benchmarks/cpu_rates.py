"""Measure what the cpu target calls its peaks: sustained GEMM rates of OpenVINO, FP32 and INT8, one thread.

    python benchmarks/cpu_rates.py

Process CPU time, so that other load on the host disturbs little; best of 12. Writes benchmarks/results/cpu_rates.json.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import openvino
from onnx import TensorProto, helper, numpy_helper

from gpusq.latency import host_conditions

RESULT = Path(__file__).parent / "results" / "cpu_rates.json"
OPTIONS = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
DEPTH = 4


def mlp_chain(width: int, hidden: int, *, int8: bool) -> bytes:
    """ONNX of DEPTH pairs of MatMul (width to hidden to width), each with Q/DQ on input and weight where int8."""
    random = np.random.default_rng(0)
    nodes, constants, x = [], [], "x"
    for index in range(2 * DEPTH):
        k, n = (width, hidden) if index % 2 == 0 else (hidden, width)
        weight = random.normal(size=(k, n)).astype(np.float32) / np.sqrt(np.float32(k))
        name = f"g{index}"
        if int8:
            scale = np.abs(weight).max(axis=0) / 127
            values = {"wq": np.rint(weight / scale).astype(np.int8), "ws": scale.astype(np.float32)}
            values |= {"wz": np.zeros(n, np.int8), "xs": np.float32(0.03), "xz": np.int8(0)}
            constants += [numpy_helper.from_array(np.asarray(v), name + key) for key, v in values.items()]
            quantizer = [name + "xs", name + "xz"]
            nodes += [
                helper.make_node("DequantizeLinear", [name + "wq", name + "ws", name + "wz"], [name + "w"], axis=1),
                helper.make_node("QuantizeLinear", [x, *quantizer], [name + "xq"]),
                helper.make_node("DequantizeLinear", [name + "xq", *quantizer], [name + "x"]),
            ]
            x = name + "x"
        else:
            constants.append(numpy_helper.from_array(weight, name + "w"))
        nodes.append(helper.make_node("MatMul", [x, name + "w"], [name]))
        x = name
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["m", width]) for end in ("x", x)]
    graph = helper.make_graph(nodes, "mlp", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def best_cpu_seconds(call: Callable[[], object], runs: int = 12) -> float:
    """Least process CPU time of a call, after two warm-up calls."""
    call(), call()
    taken = []
    for _ in range(runs):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return min(taken)


def main() -> None:
    """Measure and write."""
    os.environ["OMP_NUM_THREADS"] = "1"
    core, rows = openvino.Core(), []
    for width, hidden in ((384, 1536), (768, 3072)):
        for int8 in (False, True):
            request = core.compile_model(
                core.read_model(mlp_chain(width, hidden, int8=int8)), "CPU", OPTIONS
            ).create_infer_request()
            for tokens in (16, 197, 788):
                x = np.random.default_rng(1).normal(size=(tokens, width)).astype(np.float32)
                seconds = best_cpu_seconds(lambda request=request, x=x: request.infer({0: x}))
                rate = 4 * DEPTH * tokens * width * hidden / seconds / 1e9
                precision = "int8" if int8 else "fp32"
                rows.append({"width": width, "tokens": tokens, "precision": precision, "gops_per_core": round(rate)})
                print(rows[-1])
    content = {"how": "OpenVINO, one thread, process CPU time, best of 12", "host": host_conditions(), "rows": rows}
    RESULT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
