"""The whole shape of each input of an ONNX graph: the batch may be open, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gpusq.errors import UsageError

if TYPE_CHECKING:
    import onnx


def input_shapes(
    inputs: Sequence[onnx.ValueInfoProto], given: dict[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Every input's shape: as given, else as in the file with an open batch as 1.

    Raises UsageError for a name that is no input, a given shape that contradicts the file, or a dimension beside the
    batch that is still open.
    """
    names = [value.name for value in inputs]
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise UsageError(
            f"--shape names an input of the model: {', '.join(names)}", got=unknown[0], do="name one of these"
        )
    batch_names = {_first_name(value) for value in inputs} - {""}
    return {value.name: _input_shape(value, given.get(value.name), batch_names) for value in inputs}


def _first_name(value: onnx.ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    return str(dims[0].dim_param) if dims else ""


def _input_shape(value: onnx.ValueInfoProto, given: tuple[int, ...] | None, batch_names: set[str]) -> tuple[int, ...]:
    kind = value.type.tensor_type
    example = f"--shape {value.name}=1x3x224x224"
    if not kind.HasField("shape") and given is None:
        raise UsageError(f"input {value.name} must have a shape", got="none in the file", do=f"give it: {example}")
    dims = list(kind.shape.dim)
    if given is not None:
        _check_given(value.name, dims, given)
        return given
    shape = []
    for position, dim in enumerate(dims):
        if dim.HasField("dim_value") and dim.dim_value > 0:
            shape.append(dim.dim_value)
        elif position == 0 or dim.dim_param in batch_names:
            shape.append(1)
        else:
            shown = "x".join("1" if i == 0 else str(d.dim_value or "?") for i, d in enumerate(dims))
            raise UsageError(
                f"input {value.name} may leave only its batch open",
                got=f"dimension {position} is {dim.dim_param or 'unknown'!r}",
                do=f"give the whole shape, numbers for every ?: --shape {value.name}={shown}",
            )
    return tuple(shape)


def _check_given(name: str, dims: Sequence[Any], given: tuple[int, ...]) -> None:
    fits = not dims or (
        len(dims) == len(given)
        and all(not d.HasField("dim_value") or d.dim_value in (0, size) for d, size in zip(dims, given, strict=True))
    )
    if not fits:
        written = "x".join(str(d.dim_value or d.dim_param or "?") for d in dims)
        raise UsageError(
            f"input {name} has the shape {written} in the file",
            got="x".join(map(str, given)),
            do="give a --shape that differs only in the open dimensions",
        )
