"""What Export promises beside parity: the weights in the file that ships are the model's own, value by value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load

from gpusq.errors import ParityError
from gpusq.graph.weights import stored_weights

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from gpusq.artifacts import Artifact

LEVELS = 127


def check_weights(model: ir.Model, artifact: Artifact) -> None:
    """Raise ParityError unless every stored GEMM weight equals that of the model artifact: integers, or floats

    rounded to the file's type. Parity of logits on images would not see one wrong weight among millions. Layers with a
    forward of their own multiply what that makes of their weight, and the file holds the same: parity speaks for them.
    """
    weights = load(artifact.read("weights.safetensors"))
    quantized = "scales.safetensors" in artifact.manifest.files
    scales = load(artifact.read("scales.safetensors")) if quantized else {}
    for stored in stored_weights(model):
        weight = weights.get(f"{stored.layer}.weight")
        if weight is None:
            continue
        if stored.int8:
            weight = integers(weight, scales[f"{stored.layer}.weight_quantizer"])
        wrong = int((rows_of(weight).astype(stored.matrix.dtype) != stored.matrix).sum())
        if wrong and (stored.int8 or not _has_own_forward(artifact, stored.layer)):
            raise ParityError(
                f"export: the weight of {stored.layer} in the ONNX file must be the model's",
                got=f"{wrong} of {weight.size} values differ",
                do="nothing was sealed; report this with the command that led here",
            )


def _has_own_forward(artifact: Artifact, layer: str) -> bool:
    """Told by the model itself: a reason in layers.json may be the user's. Asked only of a weight that differs."""
    from gpusq.models.layers import OWN_FORWARD_REASON
    from gpusq.stages.model_files import open_model

    return open_model(artifact).loaded.keep_dense.get(layer) == OWN_FORWARD_REASON


def integers(weight: NDArray[Any], scale: NDArray[Any]) -> NDArray[Any]:
    """The INT8 values of a weight [out, ...] under one scale for each output channel."""
    per_channel = scale.reshape(-1, *[1] * (weight.ndim - 1))
    levels: NDArray[Any] = np.clip(np.rint(weight / per_channel), -LEVELS, LEVELS)
    return levels


def rows_of(weight: NDArray[Any]) -> NDArray[Any]:
    """[out, k] of a Linear, [out * kh * kw, in / groups] of a convolution: as `stored_weights` lays it out."""
    last = weight if weight.ndim == 2 else np.moveaxis(weight, 1, -1)
    return last.reshape(-1, last.shape[-1])
