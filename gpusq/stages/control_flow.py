"""Refuses at the door what could only be refused at export: a forward whose steps depend on the image."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from gpusq.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor, nn


def check_control_flow(module: nn.Module, input_shape: tuple[int, int, int]) -> None:
    """Raise UnsupportedModelError where the steps of the forward depend on the values in the image.

    Told by torch.export on one image, in the two ways in which the ONNX exporter tries it; nothing is computed. Other
    models that cannot be exported pass: the export stage has their reasons.
    """
    import torch

    from gpusq.graph.tracing import eval_mode, quiet
    from gpusq.models.probe import example_input

    x = example_input(module, input_shape)
    with eval_mode(module), quiet(), torch.no_grad():
        branch = _branch_on_values(module, x)
        if branch is None or _exports_strictly(module, x):
            return
    raise UnsupportedModelError(
        "the model's forward takes the same steps for every image, so that it can be exported",
        got=f"an if, a loop or a size that depends on computed values, in {_place(branch)}",
        do="use torch.where in place of the branch, a fixed number of turns, torch.topk with a fixed k in place of a "
        "threshold, and no .item() or int() of a tensor",
    ) from branch


def _branch_on_values(module: nn.Module, x: Tensor) -> BaseException | None:
    """What torch.export says of control flow that depends on data; None where it says nothing of the kind."""
    import torch
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    try:
        torch.export.export(module, (x,), strict=False)
    except Exception as error:  # noqa: BLE001  (whatever the model's own code raises under a tracer)
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, GuardOnDataDependentSymNode):
            cause = cause.__cause__ or cause.__context__
        return cause
    return None


def _exports_strictly(module: nn.Module, x: Tensor) -> bool:
    import torch

    try:
        torch.export.export(module, (x,), strict=True)
    except Exception:  # noqa: BLE001  (the answer is no, whatever the reason)
        return False
    return True


def _place(error: BaseException) -> str:
    """ "source.py, line 12": the innermost line that is not PyTorch's own."""
    import torch

    home = str(Path(torch.__file__).parent)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((home, "<"))]
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else "its forward"
