"""INT8 by fake quantization: placement policies, ranges, scales that export as Q/DQ."""

from gpusq.quantization.calibration import calibrate
from gpusq.quantization.fake_quantize import PER_TENSOR, fake_quantize
from gpusq.quantization.layers import (
    QuantConv2d,
    QuantLinear,
    insert,
    load_scales,
    quantizers,
    scales,
    seal_scales,
    set_mode,
    set_weight_ranges,
    shared_inputs,
)
from gpusq.quantization.observers import (
    Calibrator,
    HistogramObserver,
    MaxObserver,
    MseObserver,
    Observer,
    PercentileObserver,
    observer,
)
from gpusq.quantization.placement import HEAD_REASON, POLICIES, Policy, QuantizerSpec, feeds_attention, place
from gpusq.quantization.points import QuantPoint
from gpusq.quantization.quantizer import SMALLEST_SCALE, FakeQuantizer

__all__ = [
    "HEAD_REASON",
    "PER_TENSOR",
    "POLICIES",
    "SMALLEST_SCALE",
    "Calibrator",
    "FakeQuantizer",
    "HistogramObserver",
    "MaxObserver",
    "MseObserver",
    "Observer",
    "PercentileObserver",
    "Policy",
    "QuantConv2d",
    "QuantLinear",
    "QuantPoint",
    "QuantizerSpec",
    "calibrate",
    "fake_quantize",
    "feeds_attention",
    "insert",
    "load_scales",
    "observer",
    "place",
    "quantizers",
    "scales",
    "seal_scales",
    "set_mode",
    "set_weight_ranges",
    "shared_inputs",
]
