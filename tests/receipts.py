"""Receipts made by hand in the form that `gpusq build BUNDLE --receipt` writes: the gates read nothing else."""

from __future__ import annotations

from typing import Any

from gpusq.finishing.receipt_file import Receipt, sealed_receipt

SHARE = 0.72


def row(p50: float, batch: int = 1, engine: str = "e1", **changes: Any) -> dict[str, Any]:
    """A measured row; p50 in ms, noise bounds 1 % around it. changes: fields of the row, accuracy as a number."""
    accuracy = changes.pop("accuracy", None)
    conditions = {
        "device": "NVIDIA A100-SXM4-40GB",
        "power_mode": "400 W",
        "clocks": "1410 MHz",
        "libraries": {"tensorrt": "10.16.1.11"},
        "date": "2026-11-20T10:00:00Z",
        "throttled": False,
    }
    plain: dict[str, Any] = {
        "artifact": {"kind": "engine", "digest": engine, "stage": "build", "variant": "sparse-int8"},
        "target": "a100-40gb",
        "batch": batch,
        "status": "measured",
        "latency_ms": {
            "p50": p50,
            "p90": p50 * 1.02,
            "p99": p50 * 1.05,
            "n": 200,
            "warmup": 20,
            "noise_low": p50 * 0.99,
            "noise_high": p50 * 1.01,
        },
        "throughput_per_s": batch / p50 * 1000,
        "precision": "int8",
        "sparsity": "2:4",
        "runtime": "tensorrt 10.16.1.11",
        "input_shape": (3, 224, 224),
        "conditions": conditions | changes.pop("conditions", {}),
    }
    if accuracy is not None:
        plain["accuracy"] = {"metric": "top1", "value": accuracy, "n": 1000, "split": "val", "how": "the engine"}
    return plain | changes


def layers(sparse: float = SHARE, basis: str = "time", **changes: Any) -> dict[str, Any]:
    """A layer receipt without its layers: the shares and findings that were drawn from them."""
    return {
        "library": "tensorrt",
        "version": "10.16.1.11",
        "onnx_sha256": "o" * 64,
        "plan_sha256": "p" * 64,
        "shares": {
            "basis": basis,
            "sparse": sparse,
            "sparse_hidden": 0.0,
            "int8": 0.9,
            "full_float": 0.0,
            "precision_hidden": 0.0,
        },
        "totals": {"layers": 9, "gemms": 4, "fused_attentions": 1, "casts": 1, "quantizers": 1, "reformats": 0},
        **changes,
    }


def engine(role: str = "model", digest: str = "e1", **changes: Any) -> dict[str, Any]:
    """One engine of a receipt whose outputs agreed with the host's on 99.5 % of 200 samples."""
    return {
        "role": role,
        "bundle": f"b-{digest}",
        "engine": digest,
        "variant": "sparse-int8",
        "onnx_sha256": "o" * 64,
        "plan_sha256": "p" * 64,
        "plan_bytes": 10,
        "place": {"builder": "tensorrt", "library": "10.16.1.11", "capabilities": ["8.0"]},
        "build": {},
        "layers": layers(),
        "gate": {
            "task": "classification",
            "n": 200,
            "figures": {"relative_error": 0.01, "top1_agreement": 0.995},
            "limits": {"relative_error": 0.05, "top1_agreement": 0.95},
            "passed": True,
        },
        **changes,
    }


def receipt(*rows: dict[str, Any], engines: list[dict[str, Any]] | None = None, **changes: Any) -> Receipt:
    """A sealed receipt."""
    fields = {
        "gpusq": "0.1.0",
        "date": "2026-11-20T10:00:00Z",
        "target": "a100-40gb",
        "status": "measured",
        "engines": engines or [engine()],
        "rows": list(rows),
    }
    return sealed_receipt(fields | changes)
