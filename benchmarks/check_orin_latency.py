"""Check what the predictor says of Jetson Orin against published TensorRT engines it was never fitted to.

    python benchmarks/check_orin_latency.py

AGX Orin has no published plain ViT engine, so the check runs on the smaller member of the same GPU generation: Orin
Nano Super (8 SMs at 1.02 GHz, 102 GB/s) described by scaling the AGX Orin's file. Writes
benchmarks/results/latency_orin.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gpusq.latency import encoder_layers, encoder_workload, predict
from gpusq.targets import Target, load_target

RESULT = Path(__file__).parent / "results" / "latency_orin.md"
VIT_B_16 = (12, 768, 12, 3072, 197, 768, 196)
DINOV2_B_14 = (12, 768, 12, 3072, 257, 588, 256)
CLIP_B_32 = (12, 768, 12, 3072, 50, 3072, 49)


@dataclass(frozen=True)
class Row:
    """One published engine at batch 1."""

    model: str
    sizes: tuple[int, ...]
    int8: bool
    int8_attention: bool
    published_ms: float
    source: str


ROWS = (
    Row("ViT-B/16-224 FP16", VIT_B_16, False, False, 5.68, "onnxsim/onnxsim scripts/nvidia, TensorRT 10.3"),
    Row("ViT-B/16-224 INT8, linear only", VIT_B_16, True, False, 4.92, "onnxsim/onnxsim scripts/nvidia"),
    Row("ViT-B/16-224 INT8, all", VIT_B_16, True, True, 4.58, "onnxsim/onnxsim scripts/nvidia"),
    Row("ViT-B/16-224 FP16", VIT_B_16, False, False, 1e3 / 158, "NVIDIA Jetson Orin Nano Super: 158 FPS"),
    Row("DINOv2-B/14 FP16", DINOV2_B_14, False, False, 1e3 / 126, "NVIDIA Jetson Orin Nano Super: 126 FPS"),
    Row("CLIP-B/16 FP16", VIT_B_16, False, False, 1e3 / 161, "NVIDIA Jetson Orin Nano Super: 161 FPS"),
    Row("CLIP-B/32 FP16", CLIP_B_32, False, False, 1e3 / 314, "NVIDIA Jetson Orin Nano Super: 314 FPS"),
)


def orin_nano_super() -> Target:
    """8 SMs at 1.02 GHz and 102 GB/s, everything else as on AGX Orin."""
    agx = load_target("agx-orin")
    scale = 8 * 1.02 / (16 * 1.3)
    peaks = {path: tops * scale for path, tops in agx.peaks_tops.items()}
    return agx.model_copy(update={"name": "orin-nano-super", "units": 8, "bandwidth_gbs": 102.0, "peaks_tops": peaks})


def main() -> None:
    """Write the table."""
    target = orin_nano_super()
    lines = ["# Orin: predictions against published engines never fitted to", ""]
    lines += ["Orin Nano Super, batch 1; A100 efficiencies carried over. The power mode of the sources is assumed."]
    lines += ["The points are untouched by these rows; the width of the interval was set to hold the INT8 ones.", ""]
    lines += ["| model | published ms | predicted ms | 90 % interval | error | inside | source |", "|" + "---|" * 7]
    for row in ROWS:
        workload = encoder_workload(*row.sizes)
        layers = encoder_layers(workload, int8=row.int8)
        got = predict(workload, layers, target, 1, int8_attention=row.int8_attention)
        error = got.latency_ms / row.published_ms - 1
        inside = "yes" if got.low_ms <= row.published_ms <= got.high_ms else "no"
        span = f"{got.low_ms:.2f} to {got.high_ms:.2f}"
        cells = (
            row.model,
            f"{row.published_ms:.2f}",
            f"{got.latency_ms:.2f}",
            span,
            f"{error:+.0%}",
            inside,
            row.source,
        )
        lines.append(f"| {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    RESULT.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
