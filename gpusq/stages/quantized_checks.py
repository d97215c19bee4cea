"""What Qat promises, checked on the files it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load

from gpusq.errors import NonFiniteError, SparsityCheckError
from gpusq.models import check_finite
from gpusq.quantization import SMALLEST_SCALE
from gpusq.sparsity import check_nm, gemm_matrix
from gpusq.stages.model_files import check_masked, layers_in

LEVELS = 127


def check_quantized(out: Path) -> None:
    """Raise SparsityCheckError or NonFiniteError unless weights, scales and integers in `out` are what Qat promises."""
    weights = load((out / "weights.safetensors").read_bytes())
    scales = load((out / "scales.safetensors").read_bytes())
    check_finite(weights)
    check_finite(scales)
    check_masked(weights, layers_in(out))
    for name, scale in scales.items():
        if not bool((scale.half().float() == scale).all()) or bool((scale < SMALLEST_SCALE).any()):
            raise NonFiniteError(
                f"scale {name} must be an FP16 number of at least 2**-14", got=f"{float(scale.min()):g}"
            )
    for spec in json.loads((out / "quantizers.json").read_text(encoding="utf-8")):
        if spec["role"] == "weight":
            check_integers(spec["layer"], weights, scales, out)


def check_integers(name: str, weights: dict[str, torch.Tensor], scales: dict[str, torch.Tensor], out: Path) -> None:
    """2:4 on the integers of one layer that is listed as sparse."""
    layer = next(x for x in layers_in(out) if x.name == name)
    if not layer.sparse:
        return
    weight = weights[f"{name}.weight"]
    scale = scales[f"{name}.weight_quantizer"].view(-1, *[1] * (weight.dim() - 1))
    integers = (weight / scale).round().clamp(-LEVELS, LEVELS).to(torch.int8)
    broken = check_nm(gemm_matrix(integers, layer.groups), 2, 4)
    if broken:
        raise SparsityCheckError(f"qat: {name} must be 2:4 on its integers", got=f"{broken} groups that are not")
