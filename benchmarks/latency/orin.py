"""Published Jetson Orin engines: the rows, their devices, and their workloads where these are no plain encoders."""

from __future__ import annotations

from dataclasses import dataclass

from gpusq.latency import encoder_workload
from gpusq.targets import Target, load_target
from gpusq.workload import Op, Workload

ONNXSIM = "onnxsim/onnxsim scripts/nvidia @5208cea, TensorRT 10.3, Orin Nano 8 GB"
NVIDIA_NANO = "NVIDIA, Jetson Orin Nano Super against the original Orin Nano, images a second"
EFFICIENTVIT = "mit-han-lab/efficientvit classification README, AGX Orin, TensorRT FP16 with data transfer"
NANOOWL = "NVIDIA-AI-IOT/nanoowl README, AGX Orin, images a second of the whole predictor"
VIT_B_16 = (12, 768, 12, 3072, 197, 768, 196)
DINOV2_B_14 = (12, 768, 12, 3072, 257, 588, 256)
CLIP_B_32 = (12, 768, 12, 3072, 50, 3072, 49)
OWL_B_32 = (12, 768, 12, 3072, 577, 3072, 576)

# EfficientViT-B: widths, depths, head dimension, head widths. Source: Cai et al. 2023, arXiv:2205.14756, table of B.
EFFICIENTVIT_B = {
    "B1": ((16, 32, 64, 128, 256), (1, 2, 3, 3, 4), 16, (1536, 1600)),
    "B2": ((24, 48, 96, 192, 384), (1, 3, 4, 4, 6), 32, (2304, 2560)),
    "B3": ((32, 64, 128, 256, 512), (1, 4, 6, 6, 9), 32, (2304, 2560)),
}


@dataclass(frozen=True)
class Row:
    """One published engine at batch 1; sizes of a plain encoder, or ("B1", image side) of an EfficientViT."""

    device: str
    model: str
    sizes: tuple[int, ...] | tuple[str, int]
    published_ms: float
    source: str
    int8: bool = False
    int8_attention: bool = False
    base: str = "fp16"

    @property
    def workload(self) -> Workload:
        """Operators per image."""
        if isinstance(self.sizes[0], str):
            return efficientvit(self.sizes[0], int(self.sizes[1]))
        return encoder_workload(*self.sizes)


def _nano(device: str, rates: tuple[float, ...]) -> list[Row]:
    models = {"ViT-B/16-224": VIT_B_16, "DINOv2-B/14-224": DINOV2_B_14}
    models |= {"CLIP-B/16-224": VIT_B_16, "CLIP-B/32-224": CLIP_B_32}
    return [
        Row(device, f"{name} FP16", sizes, 1e3 / rate, NVIDIA_NANO)
        for (name, sizes), rate in zip(models.items(), rates, strict=True)
    ]


def _efficientvit() -> list[Row]:
    published = {"B1": (1.48, 1.57, 1.82), "B2": (2.63, 2.84, 3.30), "B3": (4.36, 4.74, 5.63)}
    return [
        Row("AGX Orin", f"EfficientViT-{kind}-{side} FP16", (kind, side), ms, EFFICIENTVIT)
        for kind, times in published.items()
        for side, ms in zip((224, 256, 288), times, strict=True)
    ]


ROWS = (
    Row("Orin Nano Super", "ViT-B/16-224 FP32", VIT_B_16, 13.65, ONNXSIM, base="fp32"),
    Row("Orin Nano Super", "ViT-B/16-224 FP16", VIT_B_16, 5.68, ONNXSIM),
    Row("Orin Nano Super", "ViT-B/16-224 INT8, linear only", VIT_B_16, 4.92, ONNXSIM, int8=True),
    Row("Orin Nano Super", "ViT-B/16-224 INT8, all", VIT_B_16, 4.58, ONNXSIM, int8=True, int8_attention=True),
    *_nano("Orin Nano Super", (158, 126, 161, 314)),
    *_nano("Orin Nano", (98, 75, 95, 196)),
    Row("AGX Orin", "OWL-ViT B/32-768 FP16", OWL_B_32, 1e3 / 95, NANOOWL),
    *_efficientvit(),
)
# Speed-up of 2:4 in FP16 over a stack of ViT-B's MLP, [tokens, 768] to 3072 and back, by tokens; in no fit. How many
# such pairs make the 1.33 -> 1.06 ms and 12.2 -> 10.2 ms is not known here, so only the ratio is compared.
# Source: ONNXSIM.
SPARSE_MLP = {197: 1.33 / 1.06, 2048: 12.2 / 10.2}
NOT_MODELLED = (
    "ViT-B/16 in FP32, 13.65 ms (onnxsim, Orin Nano Super): TensorRT's FP32 is TF32, the target's is IEEE float32",
    "RF-DETR, ReduceFormer, Grounding DINO, SAM2: their graphs were not rebuilt",
    "Embedl ViT 3.6 ms: which ViT is not said",
    "SAM, MobileSAM, RT-DETR in ROS graphs: precision and the graph's other nodes are not said",
    "NanoSAM, EfficientViT-SAM, PETR, Far3D: their decoders and pre-processing are part of the figure",
    "DLA rows: another engine than the GPU",
    "the speed-ups of the GPUSQ-ViT paper (arXiv:2305.10727) against FP32: batch, power mode and TF32 are not said",
)


def mlp(tokens: int, width: int = 768, hidden: int = 3072) -> Workload:
    """Two linears with GELU between them."""
    wide = tokens * hidden
    ops = (
        Op("fc1", "gemm", tokens, hidden, width, 1, tokens * width, wide),
        Op("gelu", "memory", read=wide, write=wide),
        Op("fc2", "gemm", tokens, width, hidden, 1, wide, tokens * width),
    )
    return Workload((width, 1, tokens), ops, 2 * width * hidden)


def device_of(name: str) -> Target:
    """AGX Orin at MAXN; the Nano is 8 SMs at 1020 MHz and 102 GB/s (Super) or 625 MHz and 68 GB/s."""
    agx = load_target("agx-orin")
    if name == "AGX Orin":
        return agx
    clock, bandwidth = (1.02, 102.0) if name == "Orin Nano Super" else (0.625, 68.0)
    peaks = {path: tops * 8 * clock / (16 * 1.3) for path, tops in agx.peaks_tops.items()}
    facts = {"name": name, "units": 8, "bandwidth_gbs": bandwidth, "peaks_tops": peaks, "cache_mib": 2.0}
    return agx.model_copy(update=facts)


class _Net:
    """Collects operators; every image is square, of side `side`."""

    def __init__(self, side: int, channels: int) -> None:
        self.side, self.channels = side, channels
        self.ops: list[Op] = []

    def conv(self, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        """Convolution with its normalisation and activation folded in."""
        read = self.side**2 * self.channels
        self.side //= stride
        pixels, inside = self.side**2, self.channels // groups * kernel**2
        name = f"conv{len(self.ops)}"
        self.ops.append(Op(name, "gemm", pixels, outputs // groups, inside, groups, read, pixels * outputs))
        self.channels = outputs

    def mbconv(self, outputs: int, stride: int = 1, expand: int = 4) -> None:
        """Inverted bottleneck."""
        inner = self.channels * expand
        if expand > 1:
            self.conv(inner)
        self.conv(inner, 3, stride, inner)
        self.conv(outputs)

    def linear_attention(self, dimension: int) -> None:
        """Multi-scale linear attention: q, k, v, their 5x5 aggregation, two products, projection."""
        width = self.channels
        self.conv(3 * width)
        self.conv(3 * width, 5, 1, 3 * width)
        self.conv(3 * width, 1, 1, 3 * width // dimension)
        heads, pixels = 2 * width // dimension, self.side**2
        size = 2 * width * pixels
        name = f"attention{len(self.ops)}"
        state = heads * dimension**2
        self.ops.append(Op(f"{name}/kv", "bmm", dimension + 1, dimension, pixels, heads, 2 * size, state))
        self.ops.append(Op(f"{name}/q", "bmm", pixels, dimension + 1, dimension, heads, size, size))
        self.channels = 2 * width
        self.conv(width)


def efficientvit(kind: str, side: int) -> Workload:
    """EfficientViT-B classifier of an image of this side."""
    widths, depths, dimension, head = EFFICIENTVIT_B[kind]
    net = _Net(side, 3)
    net.conv(widths[0], 3, 2)
    for _ in range(depths[0]):
        net.mbconv(widths[0], expand=1)
    for stage in (1, 2):
        for block in range(depths[stage]):
            net.mbconv(widths[stage], 1 if block else 2)
    for stage in (3, 4):
        net.mbconv(widths[stage], 2)
        for _ in range(depths[stage]):
            net.linear_attention(dimension)
            net.mbconv(widths[stage])
    net.conv(head[0])
    net.ops.append(Op("pool", "memory", read=net.side**2 * head[0], write=head[0]))
    net.side, net.channels = 1, head[0]
    net.conv(head[1])
    net.conv(1000)
    weights = sum(op.n * op.k * op.count for op in net.ops if op.kind == "gemm")
    return Workload((3, side, side), tuple(net.ops), weights)
