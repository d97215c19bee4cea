"""Seconds that predictions take: a whole ViT-B for three targets and ten batches, its ONNX file, a table of rows.

    .venv/bin/python benchmarks/predict_speed.py

Reported is process CPU time of one thread, best of REPEATS, since other work on a machine stretches wall time; wall
time stands beside it. The ONNX file is a ViT-B of random float32 weights, written with onnx alone (no torch).
Writes benchmarks/results/predict_speed.json and .md.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpusq.latency import encoder_layers, encoder_workload, host_conditions, predict
from gpusq.latency.decisions import decide
from gpusq.latency.onnx_workload import read_onnx
from gpusq.latency.table import answer_all, read_questions
from gpusq.targets import load_target

RESULT = Path(__file__).parent / "results" / "predict_speed.json"
COMMAND = ".venv/bin/python benchmarks/predict_speed.py"
TARGETS = ("a100", "agx-orin@30W", "h200")
BATCHES = (1, 2, 4, 8, 16, 32, 64, 96, 128, 256)
VIT_B = (12, 768, 12, 3072, 197)
REPEATS = 5
TABLE_ROWS = 10_000


@dataclass(frozen=True)
class Taken:
    """What was done, and the best CPU and wall seconds of `repeats` runs."""

    what: str
    cpu_s: float
    wall_s: float
    repeats: int


def best_of(what: str, call: Callable[[], object], repeats: int = REPEATS) -> Taken:
    """The smallest times of several runs, each by itself."""
    cpu, wall = [], []
    for _ in range(repeats):
        begun, cpu_begun = time.perf_counter(), time.process_time()
        call()
        cpu.append(time.process_time() - cpu_begun)
        wall.append(time.perf_counter() - begun)
    return Taken(what, round(min(cpu), 4), round(min(wall), 4), repeats)


def whole_model(file: Path | None = None) -> int:
    """A ViT-B on TARGETS at BATCHES, read from a file where one is given. Returns how many predictions were made."""
    if file is None:
        workload = encoder_workload(*VIT_B, 768, 196)
        layers = encoder_layers(workload, sparse=True, int8=True)
    else:
        found = read_onnx(file)
        workload, layers = found.workload, found.layers
    runs = [predict(workload, layers, load_target(target), batch) for target in TARGETS for batch in BATCHES]
    return len(runs)


def write_vit_b(path: Path, layers: int = VIT_B[0]) -> Path:
    """A ViT-B encoder of random weights as an ONNX file with an open batch."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    _, width, heads, mlp, tokens = VIT_B
    draw = np.random.default_rng(0)
    nodes: list[Any] = []
    weights: list[Any] = []

    def constant(name: str, array: Any) -> str:
        weights.append(numpy_helper.from_array(array, name))
        return name

    def add(kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [f"{name}/{kind}"], name=f"{name}/{kind}", **attributes))
        return f"{name}/{kind}"

    def linear(x: str, name: str, inputs: int, outputs: int) -> str:
        weight = constant(f"{name}.weight", draw.standard_normal((inputs, outputs), dtype=np.float32))
        bias = constant(f"{name}.bias", np.zeros(outputs, np.float32))
        return add("Add", [add("MatMul", [x, weight], name), bias], name)

    def norm(x: str, name: str) -> str:
        scale, bias = (constant(f"{name}.{part}", np.ones(width, np.float32)) for part in ("weight", "bias"))
        return add("LayerNormalization", [x, scale, bias], name)

    split = constant("split", np.array([0, tokens, heads, width // heads]))
    join = constant("join", np.array([0, tokens, width]))
    x = "tokens"
    for index in range(layers):
        at = f"blocks.{index}"
        y = norm(x, f"{at}.norm1")
        parts = []
        for part in ("q_proj", "k_proj", "v_proj"):
            made = add("Reshape", [linear(y, f"{at}.attention.{part}", width, width), split], f"{at}.attention.{part}")
            order = [0, 2, 3, 1] if part == "k_proj" else [0, 2, 1, 3]
            parts.append(add("Transpose", [made], f"{at}.attention.{part}", perm=order))
        scores = add("Softmax", [add("MatMul", parts[:2], f"{at}.attention/qk")], f"{at}.attention", axis=-1)
        mixed = add(
            "Transpose", [add("MatMul", [scores, parts[2]], f"{at}.attention/pv")], f"{at}.attention", perm=[0, 2, 1, 3]
        )
        mixed = add("Reshape", [mixed, join], f"{at}.attention")
        x = add("Add", [x, linear(mixed, f"{at}.attention.out_proj", width, width)], f"{at}/first")
        hidden = add("Gelu", [linear(norm(x, f"{at}.norm2"), f"{at}.mlp.fc1", width, mlp)], f"{at}.mlp")
        x = add("Add", [x, linear(hidden, f"{at}.mlp.fc2", mlp, width)], f"{at}/second")
    graph = helper.make_graph(
        nodes,
        "vit",
        [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["batch", tokens, width])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["batch", tokens, width])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def write_table(path: Path, rows: int = TABLE_ROWS) -> Path:
    """Distinct questions, four GEMMs to one encoder."""
    lines = ["kind,device,dtype,sparsity,m,n,k,layers,width,heads,mlp,tokens,batch"]
    devices = ("a100-40gb", "a100-80gb-pcie", "h100-pcie", "agx-orin-64gb@30W")
    for index in range(rows):
        start = f"{devices[index % 4]},{('fp16', 'bf16', 'int8')[index % 3]},{('dense', '2:4')[index % 2]}"
        if index % 5:
            lines.append(f"gemm,{start},{index + 1},{64 + 32 * (index % 97)},{64 + 32 * (index % 89)},,,,,,")
        else:
            lines.append(f"encoder,{start},,,,{6 + 6 * (index % 3)},768,12,3072,{1 + index % 577},{1 + index % 256}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def measure() -> list[Taken]:
    """All rows of the result."""
    count = len(TARGETS) * len(BATCHES)
    workload = encoder_workload(*VIT_B, 768, 196)
    layers = encoder_layers(workload, sparse=True, int8=True)
    with tempfile.TemporaryDirectory() as folder:
        file, table = write_vit_b(Path(folder) / "vit.onnx"), write_table(Path(folder) / "rows.csv")
        size = file.stat().st_size / 1e6
        return [
            best_of(f"ViT-B, {len(TARGETS)} targets, {len(BATCHES)} batches: {count} predictions", whole_model),
            best_of(
                f"the same from its ONNX file ({size:.0f} MB), reading and 2:4 check included",
                lambda: whole_model(file),
            ),
            best_of(
                "break-even batches of ViT-B on one target, batches 1 to 256",
                lambda: decide(workload, layers, load_target("a100")),
                2,
            ),
            best_of(
                f"{TABLE_ROWS:,} rows of CSV, a fifth of them encoders", lambda: answer_all(read_questions(table)), 2
            ),
        ]


def page(content: dict[str, Any]) -> str:
    """The result for people."""
    host = content["host"]
    lines = ["# Seconds that predictions take", "", f"`{content['command']}`, {content['date']}:", ""]
    lines += [f"- {host['cpu']}, {host['cores']} cores, Python {host['python']}"]
    lines += [f"- load average of the host: {host.get('load_average', 'not stated')} (wall times are stretched by it)"]
    lines += [f"- torch imported: {'yes' if content['torch_imported'] else 'no'}"]
    lines += ["", "| what | CPU s | wall s | best of |", "|---|---|---|---|"]
    lines += [
        f"| {row['what']} | {row['cpu_s']:.3f} | {row['wall_s']:.3f} | {row['repeats']} |" for row in content["rows"]
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    rows = measure()
    content = {
        "command": COMMAND,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "host": host_conditions(),
        "torch_imported": "torch" in sys.modules,
        "rows": [asdict(row) for row in rows],
    }
    RESULT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    RESULT.with_suffix(".md").write_text(page(content), encoding="utf-8")
    print(page(content))


if __name__ == "__main__":
    main()
