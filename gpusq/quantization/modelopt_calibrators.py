"""Activation ranges from nvidia-modelopt's own histogram calibrator, for comparison with ModelOpt pipelines."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from gpusq.errors import EngineError, MissingExtraError
from gpusq.quantization.observers import PERCENTILE, checked_amax


class ModeloptObserver:
    """modelopt.torch.quantization.calib.HistogramCalibrator, read out at the 99.99th percentile."""

    def __init__(self, bits: int = 8) -> None:
        self._calibrator = _histogram_calibrator(bits)

    def add(self, x: Tensor) -> None:
        """Count x in. Raises NonFiniteError."""
        checked_amax(x)
        self._calibrator.collect(x.detach().float())

    def amax(self) -> Tensor:
        """The range, 0-d. Raises EngineError where the calibrator gives none."""
        found = self._calibrator.compute_amax("percentile", percentile=PERCENTILE)
        if found is None:
            raise EngineError("modelopt's calibrator gave no range", do="use --calibrator percentile")
        return torch.as_tensor(found).reshape(()).float().cpu()


def _histogram_calibrator(bits: int) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # modelopt warns of versions it has not tested
            from modelopt.torch.quantization.calib import HistogramCalibrator
    except ImportError as error:
        raise MissingExtraError("nvidia-modelopt", "modelopt", "--calibrator modelopt") from error
    return HistogramCalibrator(num_bits=bits, axis=None, unsigned=False)
