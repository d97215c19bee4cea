"""What torch's exporter is taught: the fake quantizer as one placeholder node, and one missing reduction."""

from collections.abc import Callable
from typing import Any

DOMAIN = "gpusq"
PLACEHOLDER = "FakeQuantize"


def _placeholder_op() -> Any:
    """FakeQuantize(x, scale) with axis, lo, hi: lives only between the exporter and `lower_fake_quantize`."""
    import onnxscript
    from onnx.defs import OpSchema

    formal = OpSchema.FormalParameter
    schema = OpSchema(
        PLACEHOLDER,
        DOMAIN,
        1,
        inputs=[formal("x", "T"), formal("scale", "T")],
        outputs=[formal("y", "T")],
        type_constraints=[("T", ["tensor(float)"], "float32 only: precision is changed after the lowering")],
        attributes=[OpSchema.Attribute(name, OpSchema.AttrType.INT, required=True) for name in ("axis", "lo", "hi")],
    )
    return onnxscript.values.Op(onnxscript.values.Opset(DOMAIN, 1), PLACEHOLDER, schema)


def translation_table() -> dict[Any, Callable[..., Any]]:
    """Torch operator -> function that builds its ONNX nodes, for `torch.onnx.export(custom_translation_table=)`."""
    import torch
    from onnxscript import opset18 as op

    placeholder = _placeholder_op()

    # The annotations are read by the exporter: `int` makes an ONNX attribute.
    def fake_quantize(x: Any, scale: Any, axis: int, lo: int, hi: int) -> Any:
        return placeholder(x, scale, axis=axis, lo=lo, hi=hi)

    def is_all_true(x: Any) -> Any:
        as_int32, as_bool = 6, 9
        return op.Cast(op.ReduceMin(op.Cast(x, to=as_int32), keepdims=0), to=as_bool)

    table: dict[Any, Callable[..., Any]] = {torch.ops.aten._is_all_true.default: is_all_true}
    if hasattr(torch.ops.gpusq, "fake_quantize"):
        table[torch.ops.gpusq.fake_quantize.default] = fake_quantize
    return table
