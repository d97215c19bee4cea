"""What surrounds the trace of a module: eval mode, silence, a batch that `len()` does not freeze, untouched weights."""

from __future__ import annotations

import builtins
import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@contextlib.contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; each submodule's own flag is put back after it."""
    states: list[tuple[Any, bool]] = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in states:
            part.training = training


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's progress lines, warnings and log records from the user."""
    before, sink = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def symbolic_len(module: nn.Module) -> Iterator[None]:
    """len(tensor) gives the symbolic first dimension inside the block, in the files that define the model's classes.

    Python's own len() must return a plain int, so that `batch_size = len(x)`, which detectors write, would make the
    example's batch a constant of the graph. A name `len` of a file's own is left alone.
    """
    homes = [home for home in _homes(module) if "len" not in vars(home)]
    for home in homes:
        home.len = _size  # type: ignore[attr-defined, unused-ignore]
    try:
        yield
    finally:
        for home in homes:
            del home.len  # type: ignore[attr-defined, unused-ignore]


def _size(x: Any) -> Any:
    import torch

    return x.shape[0] if isinstance(x, torch.Tensor) and x.dim() else builtins.len(x)


def _homes(module: nn.Module) -> list[ModuleType]:
    names = dict.fromkeys(type(part).__module__ for part in module.modules())
    return [sys.modules[n] for n in names if n in sys.modules and not n.startswith("torch.")]


@contextlib.contextmanager
def norms_kept_apart() -> Iterator[None]:
    """Inside the block torch's exporter does not multiply batch norms into the weights of convolutions.

    The weights in the file stay those of the model, which `check_weights` of the stages relies on, and the convolution
    keeps its own name. Every engine builder folds the norm by itself.
    """
    from onnxscript import rewriter

    before = getattr(rewriter, "_DEFAULT_REWRITE_RULES", None)
    if before is None:  # another release: the stages' check of the weights will tell
        yield
        return
    rewriter._DEFAULT_REWRITE_RULES = tuple(rule for rule in before if "BatchNorm" not in str(rule.name))
    try:
        yield
    finally:
        rewriter._DEFAULT_REWRITE_RULES = before
