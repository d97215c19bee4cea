"""The recorded files, the built plans that they stand for, the layers of their models, and their receipts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpusq.engines.receipts import LayerReceipt, OnnxFacts, receipt_of
from gpusq.engines.tensorrt import BuiltPlan, Memory, read_profile
from gpusq.workload import Layer

RECORDED = Path(__file__).parent / "recorded"


def text(name: str) -> str:
    """The content of a recorded file."""
    return (RECORDED / name).read_text(encoding="utf-8")


def recorded_plan(name: str, **changes: Any) -> BuiltPlan:
    """What `build_plan` would have given: NAME.log, and NAME.json where the engine was inspected."""
    log = text(f"{name}.log") if (RECORDED / f"{name}.log").is_file() else ""
    before, layers, dump = log.partition("Layers:\n")
    inspected = RECORDED / f"{name}.json"
    fields: dict[str, Any] = {
        "plan": name.encode(),
        "library": "tensorrt_rtx" if name.startswith("rtx") else "tensorrt",
        "version": "recorded",
        "onnx_sha256": "0" * 64,
        "sparse": True,
        "compute_capabilities": ("8.0",) if name.startswith("rtx") else (),
        "messages": tuple(before.splitlines()),
        "layer_dump": layers + dump,
        "inspector_json": inspected.read_text(encoding="utf-8") if inspected.is_file() else None,
        "timing_cache": None,
        "timing_cache_in_sha256": None,
        "seconds": 1.0,
        "memory": Memory(host_mib=100.0),
    }
    return BuiltPlan(**fields | changes)


def linear(name: str, k: int, out: int, *, pruned: bool = True, int8: bool = True) -> Layer:
    """A linear layer of a compressed model."""
    layer = Layer(name, "linear", out, k)
    layer = layer.pruned() if pruned else layer
    return layer.quantized() if int8 else layer


BLOCK = (
    *(linear(f"block.attention.{name}", 384, 384) for name in "qkvo"),
    linear("block.mlp.fc1", 384, 1536),
    linear("block.mlp.fc2", 1536, 384),
    linear("head", 384, 10, pruned=False, int8=False),
)
STAGE = tuple(
    Layer(name, "conv", 256, 256, sparse=name != "stem", int8=True) for name in ("stem", "stage.conv1", "stage.conv2")
)
TWO = (linear("block.fc1", 64, 64), linear("block.fc2", 64, 16))


def receipt(
    name: str, layers: tuple[Layer, ...], *, timed: bool = False, facts: OnnxFacts | None = None
) -> LayerReceipt:
    """The receipt of a recorded build; timed: with its NAME.profile.json."""
    times = read_profile(text(f"{name}.profile.json")) if timed else None
    return receipt_of(recorded_plan(name), layers, facts, times_us=times)


def kinds(found: LayerReceipt) -> dict[str, str]:
    """Kind -> severity of the findings."""
    return {finding.kind: finding.severity for finding in found.findings}


def states(found: LayerReceipt) -> dict[str, str]:
    """Pruned layer, without "block.", -> state."""
    return {layer.name.removeprefix("block."): layer.state for layer in found.pruned}
