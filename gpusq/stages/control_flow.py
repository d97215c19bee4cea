"""Refuses at the door what could only be refused at export: a forward whose steps depend on the image."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gpusq.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram
    from torch.fx import Node

SOURCE_FILE = "source.py"
"""What a model file runs as (gpusq.models.user_file)."""
FRAME = re.compile(r'File "(.+?)", line (\d+)')
"""A place in a stack trace in words."""


def check_control_flow(module: nn.Module, input_shape: tuple[int, int, int], file_name: str = "") -> None:
    """Raise UnsupportedModelError where the steps of the forward, or its sizes, depend on the values in the image.

    Told by torch.export on one image, in the two ways in which the ONNX exporter tries it; nothing is computed. Other
    models that cannot be exported pass: the export stage has their reasons. file_name: of the user's own model file,
    which runs under the name of the copy that travels with the artifact.
    """
    import torch

    from gpusq.graph.tracing import eval_mode, quiet
    from gpusq.models.probe import example_input
    from gpusq.stages.image_numbers import number_from_image

    x = example_input(module, input_shape)
    with eval_mode(module), quiet(), torch.no_grad():
        traced = _traced(module, x)
    if isinstance(traced, BaseException):
        raise _refusal(_place(traced), file_name) from traced
    node = None if traced is None else number_from_image(traced)
    if node is not None:
        raise _refusal(_written(node), file_name)


def _refusal(place: str, file_name: str) -> UnsupportedModelError:
    if file_name and place.startswith(f"{SOURCE_FILE}, "):
        place = file_name + place.removeprefix(SOURCE_FILE)
    return UnsupportedModelError(
        "the model's forward takes the same steps for every image, so that it can be exported",
        got=f"an if, a loop or a size that depends on computed values, in {place}",
        do="use torch.where in place of the branch, a fixed number of turns, torch.topk with a fixed k in place of a "
        "threshold, and no .item() or int() of a tensor",
    )


def _traced(module: nn.Module, x: Tensor) -> ExportedProgram | BaseException | None:
    """The program that the ONNX exporter would take, or why control flow depends on data; None where neither is known.

    The exporter's second way is tried where the first does not succeed, as the exporter itself does.
    """
    import torch

    try:
        return torch.export.export(module, (x,), strict=False)
    except Exception as error:  # noqa: BLE001  (whatever the model's own code raises under a tracer)
        branch = _branch_on_values(error)
    try:
        return torch.export.export(module, (x,), strict=True)
    except Exception:  # noqa: BLE001  (the first way's reason is the one that tells)
        return branch


def _branch_on_values(error: BaseException) -> BaseException | None:
    """What torch.export says of control flow that depends on data; None where it says nothing of the kind."""
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, GuardOnDataDependentSymNode):
        cause = cause.__cause__ or cause.__context__
    return cause


def _place(error: BaseException) -> str:
    """ "source.py, line 12": the innermost line that is not PyTorch's own."""
    return _innermost([(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)])


def _written(node: Node) -> str:
    """The same of a step of a traced program, which remembers where it was written."""
    return _innermost(FRAME.findall(node.meta.get("stack_trace") or ""))


def _innermost(frames: Sequence[tuple[str, object]]) -> str:
    import torch

    home = str(Path(torch.__file__).parent)
    own = [(name, line) for name, line in frames if not name.startswith((home, "<"))]
    return f"{Path(own[-1][0]).name}, line {own[-1][1]}" if own else "its forward"
