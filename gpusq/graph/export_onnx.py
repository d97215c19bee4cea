"""A torch module becomes a float32 ONNX model with Q/DQ nodes, INT8 weights and a dynamic batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpusq.errors import UnsupportedModelError
from gpusq.graph.lowering import lower_fake_quantize, merge_transposes
from gpusq.graph.model_file import strip
from gpusq.graph.naming import name_everything
from gpusq.graph.sampler import Sampler, check_sampler, gather_grid_samples
from gpusq.graph.tracing import eval_mode, norms_kept_apart, quiet, symbolic_len
from gpusq.graph.translation import translation_table

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import nn

BATCH = "batch"
LOWEST_OPSET = 18  # LayerNormalization is whole from 17 on, torch's exporter starts at 18


def export_onnx(
    module: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    opset: int = 21,
    input_name: str = "pixel_values",
    output_names: Sequence[str] = ("logits",),
    sampler: Sampler = "grid_sample",
) -> ir.Model:
    """Export `module` (pixel_values [batch, C, H, W] float32 -> one tensor [batch, ...] per output name) in eval mode.

    input_shape: (C, H, W). opset: 18 or later; GELU is one node from 20 on, FP16 needs 19. output_names: in the order
    in which the module returns its tensors. sampler: "gather" computes F.grid_sample (bilinear, zeros padding) by
    gathers, since TensorRT computes GridSample wrong from 10.14 on (NVIDIA/TensorRT#4813, #4646,
    pytorch/TensorRT#4074, #3674).
    Fake quantizers (torch.ops.gpusq.fake_quantize) become Q/DQ with zero point 0, weights INT8 initializers with a
    DequantizeLinear, activations one pair per consumer; node names carry the module path. The same module gives the
    same bytes (`model_bytes`). Nothing is printed.
    Raises UnsupportedModelError with the exporter's own reason where the module cannot be exported, and for one that
    allows a single batch size.
    """
    if opset < LOWEST_OPSET:
        raise UnsupportedModelError("export: opset 18 or later is needed", got=str(opset))
    check_sampler(sampler)
    model = _run_exporter(module, input_shape, opset, input_name, list(output_names))
    if len(model.graph.outputs) != len(output_names):
        raise UnsupportedModelError(
            f"export: the model must return {len(output_names)} tensor(s) {list(output_names)}",
            got=f"{len(model.graph.outputs)} outputs",
            do="wrap it in a module whose forward returns just these",
        )
    _check_batch(model)
    finish(model, sampler)
    return model


def _check_batch(model: ir.Model) -> None:
    """The first dimension of every input and output is the dynamic "batch"."""
    for value in [*model.graph.inputs, *model.graph.outputs]:
        first = value.shape[0] if value.shape is not None and len(value.shape) else None
        if getattr(first, "value", first) != BATCH:
            raise UnsupportedModelError(
                f"export: the first dimension of {value.name} must be the batch, of any size",
                got=str(value.shape),
                do="keep the batch size out of reshapes and constants: use x.shape[0] or -1",
            )


def finish(model: ir.Model, sampler: Sampler = "grid_sample") -> None:
    """Passes after the exporter, in place: lower quantizers and samplers, drop what is unused, name, strip."""
    from onnx_ir.passes import common

    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    if sampler == "gather":
        gather_grid_samples(model)
    lower_fake_quantize(model)
    merge_transposes(model)
    common.RemoveUnusedNodesPass()(model)
    name_everything(model)
    strip(model)


def _run_exporter(
    module: nn.Module,
    input_shape: tuple[int, int, int],
    opset: int,
    input_name: str,
    output_names: list[str],
) -> ir.Model:
    import torch

    example = torch.zeros(2, *input_shape)  # a dynamic batch of 1 would be taken for a constant
    with eval_mode(module), quiet(), symbolic_len(module), norms_kept_apart(), torch.no_grad():
        try:
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=[input_name],
                output_names=output_names,
                dynamic_shapes=({0: torch.export.Dim(BATCH, min=1)},),
                custom_translation_table=translation_table(),
            )
        except Exception as error:
            raise _refusal(error) from error
    if program is None:
        raise UnsupportedModelError("export: torch.onnx.export returned nothing")
    model: ir.Model = program.model
    return model


def _refusal(error: Exception) -> UnsupportedModelError:
    """The exporter's innermost reason, one line, with what to do about the two common ones."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    reason = f"{type(cause).__name__}: {' '.join(lines)[:400]}"
    if "batch" in reason and ("onstraint" in reason or "specializ" in reason):
        do = "keep the batch size out of reshapes and constants: use x.shape[0] or -1 and no branches on it"
    elif "No ONNX function" in reason or "No decompositions" in reason:
        do = "replace the operator named above by supported ones in the model's forward"
    else:
        do = "make the forward traceable by torch.export: no data-dependent branches, tensors in, tensors out"
    return UnsupportedModelError("export: the model could not be exported to ONNX", got=reason, do=do)
