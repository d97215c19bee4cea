"""Synthetic sample data for the tests of reports. Invented figures: no device and no model produced them."""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone
from typing import Any

from gpusq.reports.numbers import compute_of, coverage_of, size_of
from gpusq.reports.report import LayerTime, Lineage, Report, build_report
from gpusq.reports.rows import Row
from gpusq.workload import Layer, Op, Workload

CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
TOKENS, WIDTH, BLOCKS, HEADS = 197, 384, 12, 6


def digest(name: str) -> str:
    """A digest for a made-up artifact."""
    return hashlib.sha256(name.encode()).hexdigest()


def vit_workload() -> Workload:
    """The GEMMs and attention products of a small vision transformer at 224 pixels."""
    head = WIDTH // HEADS
    ops = [Op("embeddings.projection", "gemm", 196, WIDTH, 768)]
    for i in range(BLOCKS):
        at = f"encoder.layers.{i}"
        ops += [Op(f"{at}.attention.{n}_proj", "gemm", TOKENS, WIDTH, WIDTH) for n in "qkv"]
        ops += [Op(f"{at}.attention/qk", "bmm", TOKENS, TOKENS, head, HEADS)]
        ops += [Op(f"{at}.attention/pv", "bmm", TOKENS, head, TOKENS, HEADS)]
        ops += [Op(f"{at}.attention.out_proj", "gemm", TOKENS, WIDTH, WIDTH)]
        ops += [
            Op(f"{at}.mlp.fc1", "gemm", TOKENS, 4 * WIDTH, WIDTH),
            Op(f"{at}.mlp.fc2", "gemm", TOKENS, WIDTH, 4 * WIDTH),
        ]
    ops += [Op("classifier", "gemm", 1, 1000, WIDTH)]
    return Workload((3, 224, 224), tuple(ops), 22_050_664)


def vit_layers(sparse: bool, int8: bool) -> tuple[Layer, ...]:
    """Its layers with weights; the classifier stays as it was."""
    layers = []
    for op in vit_workload().ops:
        if op.kind != "gemm":
            continue
        layer = Layer(op.name, "linear", op.n, op.k)
        if op.name == "classifier":
            layer = Layer(
                op.name,
                "linear",
                op.n,
                op.k,
                why_dense="kept dense: final logits",
                why_float="last head: never quantized",
            )
        else:
            layer = layer.pruned() if sparse else layer
            layer = layer.quantized() if int8 else layer
        layers.append(layer)
    return tuple(layers)


def detector(
    sparse: bool, int8: bool, convolutions: tuple[int, ...] = (64, 256), covered: bool = False
) -> tuple[Workload, tuple[Layer, ...]]:
    """The transformer above behind a backbone of 3 x 3 convolutions with these widths, at 112 x 112 places.

    covered: whether the convolutions, too, are 2:4 and INT8 where the rest is.
    """
    ops, layers, channels = [], [], 3
    for i, width in enumerate(convolutions):
        name = f"backbone.convs.{i}"
        ops.append(Op(name, "gemm", 112 * 112, width, 9 * channels))
        layer = Layer(name, "conv", width, 9 * channels)
        layer = layer.pruned() if sparse and covered else layer
        layers.append(layer.quantized() if int8 and covered else layer)
        channels = width
    plain = vit_workload()
    parameters = plain.parameters + sum(layer.weights for layer in layers)
    return Workload(plain.input_shape, (*ops, *plain.ops), parameters), (*layers, *vit_layers(sparse, int8))


FORMS: dict[str, tuple[bool, bool, str]] = {
    "dense-fp32": (False, False, "fp32"),
    "dense-fp16": (False, False, "fp16"),
    "sparse-fp16": (True, False, "fp16"),
    "sparse-int8": (True, True, "fp16"),
}
ACCURACY = {"dense-fp32": 0.8012, "dense-fp16": 0.8011, "sparse-fp16": 0.7921, "sparse-int8": 0.7984}
DEVICES: dict[str, dict[str, Any]] = {
    "a100": {"device": "A100-SXM4-40GB", "libraries": {"gpusq": "0.1.0", "latency-fit": "3f2a"}},
    "agx-orin": {
        "device": "Jetson AGX Orin 64GB",
        "power_mode": "MAXN",
        "clocks": "GPU 1300 MHz locked",
        "libraries": {"tensorrt": "10.3.0"},
    },
    "cpu": {"device": "x86-64, 8 cores, AVX2", "threads": 4, "libraries": {"openvino": "2025.1.0"}},
}
RUNTIMES = {"a100": "tensorrt", "agx-orin": "tensorrt", "cpu": "openvino"}


def row_data(
    target: str, variant: str, batch: int, ms: float, status: str = "predicted", **changes: Any
) -> dict[str, Any]:
    """One synthetic row as plain data; `changes` replace whole fields."""
    sparse, int8, base = FORMS[variant]
    workload, layers = vit_workload(), vit_layers(sparse, int8)
    if status == "measured":
        latency = {"p50": ms, "p90": ms * 1.02, "p99": ms * 1.09, "n": 200, "warmup": 20}
    else:
        latency = {"p50": ms, "low": ms * 0.85, "high": ms * 1.2}
    return {
        "artifact": {"kind": "engine", "digest": digest(f"{target} {variant}"), "stage": "build", "variant": variant},
        "target": target,
        "batch": batch,
        "status": status,
        "latency_ms": latency,
        "throughput_per_s": batch * 1000 / ms,
        "precision": "int8" if int8 else base,
        "sparsity": "2:4" if sparse else "dense",
        "runtime": RUNTIMES[target],
        "input_shape": (3, 224, 224),
        "accuracy": {
            "metric": "top1",
            "value": ACCURACY[variant],
            "n": 50_000,
            "split": "val",
            "how": "ONNX Runtime on a CPU",
        },
        "size": size_of(workload, layers, base).model_dump(),  # type: ignore[arg-type]
        "compute": compute_of(workload, layers, base).model_dump(),  # type: ignore[arg-type]
        "coverage": coverage_of(workload, layers).model_dump(),
        "conditions": {"date": "2026-01-02", **DEVICES[target]},
    } | changes


def row(target: str, variant: str, batch: int, ms: float, status: str = "predicted", **changes: Any) -> Row:
    """One synthetic row."""
    return Row.model_validate(row_data(target, variant, batch, ms, status, **changes))


def sample_rows() -> list[Row]:
    """A100 predicted (ships), Orin measured and predicted (undecided at batch 1), CPU measured (does not ship)."""
    times = {
        "a100": {"dense-fp32": (1.9, 6.1, 20.5), "dense-fp16": (0.92, 2.05, 6.2), "sparse-int8": (0.58, 1.12, 3.05)},
        "agx-orin": {
            "dense-fp32": (7.4, 46.0, 181.0),
            "dense-fp16": (2.9, 14.8, 57.0),
            "sparse-int8": (2.75, 9.6, 34.1),
        },
        "cpu": {"dense-fp32": (28.4, 221.0, 892.0), "sparse-int8": (30.2, 229.0, 931.0)},
    }
    rows = []
    for stage, kind, variant in (
        ("intake", "dense", "dense-fp32"),
        ("prune", "sparse", "sparse-fp16"),
        ("qat", "quantized", "sparse-int8"),
    ):
        ref = {"kind": kind, "digest": digest(kind), "stage": stage, "variant": variant}
        rows += [row("a100", variant, 1, {"intake": 1.9, "prune": 0.8, "qat": 0.58}[stage], artifact=ref)]
    for target, variants in times.items():
        for variant, values in variants.items():
            for batch, ms in zip((1, 8, 32), values, strict=True):
                if target != "cpu":
                    rows.append(row(target, variant, batch, ms * (1.1 if target == "agx-orin" else 1)))
                if target != "a100":
                    rows.append(row(target, variant, batch, ms, "measured"))
    return rows


def detector_rows() -> list[Row]:
    """A model with convolutions, predicted on the A100: the dense twin and the compressed form."""
    rows = []
    for variant, ms in (("dense-fp16", 2.4), ("sparse-int8", 1.3)):
        sparse, int8, base = FORMS[variant]
        workload, layers = detector(sparse, int8)
        figures = {
            "size": size_of(workload, layers, base),  # type: ignore[arg-type]
            "compute": compute_of(workload, layers, base),  # type: ignore[arg-type]
            "coverage": coverage_of(workload, layers),
        }
        rows.append(row("a100", variant, 1, ms, **figures))
    return rows


def sample_lineage() -> list[Lineage]:
    """The chain of the sample, the dense twin beside it."""
    names = {"dense": "intake", "sparse": "prune", "quantized": "qat", "onnx": "export"}
    chain, parent = [], ()
    for kind, stage in names.items():
        chain.append(
            Lineage(
                kind=kind,
                stage=stage,
                digest=digest(kind),
                key=digest("key" + kind),
                path=f"artifacts/{kind}",
                parents=parent,
            )
        )
        parent = (digest(kind),)
    twin = Lineage(
        kind="onnx",
        stage="export",
        digest=digest("twin"),
        key=digest("keytwin"),
        path="artifacts/onnx-twin",
        parents=(digest("dense"),),
    )
    chain.append(twin)
    for target in DEVICES:
        for variant, source in (("sparse-int8", "onnx"), ("dense-fp16", "twin")):
            name = f"{target} {variant}"
            chain.append(
                Lineage(
                    kind="engine",
                    stage="build",
                    digest=digest(name),
                    key=digest("key" + name),
                    path=f"artifacts/{name}",
                    parents=(digest(source),),
                    target=target,
                )
            )
    return chain


def sample_layer_times() -> list[LayerTime]:
    """Predicted times of the operators of the sample at batch 8."""
    ops = vit_workload().ops
    raw = [
        (op.name, 4 + op.macs / 6e6, "launch" if op.macs < 1e6 else "memory" if op.kind == "bmm" else "compute")
        for op in ops
    ]
    total = sum(us for _, us, _ in raw)
    return [
        LayerTime.model_validate(
            {
                "name": n,
                "us": us,
                "bound": b,
                "share": us / total,
                "target": "a100",
                "batch": 8,
                "variant": "sparse-int8",
            }
        )
        for n, us, b in raw
    ]


def sample_report() -> Report:
    """The whole sample."""
    return build_report(
        "Small vision transformer, 224 px (synthetic sample)",
        sample_rows(),
        lineage=sample_lineage(),
        layer_times=sample_layer_times(),
        notes=["Synthetic sample data for tests: no model or device produced these figures."],
        created=CREATED,
    )
