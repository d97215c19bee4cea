"""Names, shapes and types at the border of a model, and the comparison with a frozen signature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gpusq.errors import SignatureError

if TYPE_CHECKING:
    import onnx_ir as ir

Signature = dict[str, list[dict[str, Any]]]


def signature(model: ir.Model) -> Signature:
    """{"inputs": [{"name", "dtype", "shape"}], "outputs": [...]}; a dynamic dimension is its name, such as "batch"."""
    return {"inputs": _describe(model.graph.inputs), "outputs": _describe(model.graph.outputs)}


def check_signature(found: Signature, frozen: Signature) -> None:
    """Raises SignatureError that lists every name, dtype or shape in which `found` differs from `frozen`."""
    differences = []
    for side in ("inputs", "outputs"):
        new = {tensor["name"]: tensor for tensor in found[side]}
        old = {tensor["name"]: tensor for tensor in frozen[side]}
        differences += [f"{side[:-1]} {name!r} is missing" for name in old if name not in new]
        differences += [f"{side[:-1]} {name!r} is new" for name in new if name not in old]
        for name in (name for name in old if name in new):
            differences += [
                f"{side[:-1]} {name!r} has {key} {new[name][key]}, frozen {old[name][key]}"
                for key in ("dtype", "shape")
                if new[name][key] != old[name][key]
            ]
        if not differences and list(new) != list(old):
            differences.append(f"{side} are in the order {list(new)}, frozen {list(old)}")
    if differences:
        raise SignatureError(
            "the exported model must have the frozen signature",
            got="; ".join(differences),
            do="export with the frozen names and shapes, or freeze the new signature on purpose",
        )


def _describe(values: Sequence[ir.Value]) -> list[dict[str, Any]]:
    return [
        {
            "name": value.name,
            "dtype": str(value.dtype.numpy()) if value.dtype is not None else "unknown",
            "shape": [d if isinstance(d, int) else d.value for d in value.shape] if value.shape is not None else [],
        }
        for value in values
    ]
