"""Latency: the predictor (labelled `predicted`, with an interval) and the stopwatch (measured)."""

from gpusq.latency.encoder import encoder_layers, encoder_workload
from gpusq.latency.predict import OpPrediction, Prediction, predict, predict_gemm
from gpusq.latency.stopwatch import Timing, host_conditions, time_calls, time_interleaved

__all__ = [
    "OpPrediction",
    "Prediction",
    "Timing",
    "encoder_layers",
    "encoder_workload",
    "host_conditions",
    "predict",
    "predict_gemm",
    "time_calls",
    "time_interleaved",
]
