"""One forward pass that tells what a module gives and which of its parts run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gpusq.errors import UnsupportedModelError
from gpusq.models.attention import attention_callers
from gpusq.models.description import Task
from gpusq.models.detector import described, is_pair, pair_of, tensors_of

BOX_WIDTH = 4


@dataclass(frozen=True)
class GemmRun:
    """One call of a Linear or Conv2d: the layer and the shape of its output."""

    layer: nn.Module
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Probe:
    """What one pass showed: the outputs, every layer's calls in order, the modules that call attention.

    logits: the first output, of a classifier [1, classes]. bare: the module gave its outputs as they should be, a
    classifier a plain Tensor, any other model a tuple of tensors. outputs: all of them.
    box_layers: of a detector the Linears of width 4 whose outputs become the boxes with no layer between.
    """

    logits: Tensor
    bare: bool
    runs: tuple[GemmRun, ...]
    callers: tuple[nn.Module, ...]
    outputs: tuple[Tensor, ...] = ()
    box_layers: tuple[nn.Module, ...] = ()


class Classifier(nn.Module):
    """A model that gives its logits inside a structure, as one that gives the Tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """pixel_values [B, C, H, W] -> logits [B, classes]."""
        return logits_of(self.model(pixel_values))


def logits_of(output: Any) -> Tensor:
    """The logits in what a model gave: a Tensor, an object with `.logits` or a mapping with "logits"."""
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    if not isinstance(found, Tensor):
        raise UnsupportedModelError(
            "a model gives logits: a Tensor, an object with .logits or a mapping with 'logits'",
            got=described(output),
            do="wrap the model in a module whose forward returns the logits",
        )
    return found


def example_input(module: nn.Module, input_shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """The same normal noise for the same seed, [1, C, H, W], on the module's device."""
    first = next(module.parameters(), None)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, *input_shape, generator=generator)
    return noise if first is None else noise.to(first.device)


def probe(module: nn.Module, input_shape: tuple[int, int, int], task: Task = "classification") -> Probe:
    """Run `module` once in eval mode on one image; its training flag is left as it was.

    Raises UnsupportedModelError where the pass fails or does not give what the task asks for: logits [1, classes],
    (logits [1, Q, K'], boxes [1, Q, 4]), or a tuple of tensors.
    """
    runs: list[GemmRun] = []
    x = example_input(module, input_shape)
    with _recorded(module, runs), attention_callers() as callers, evaluating(module), torch.no_grad():
        output = run_forward(module, x)
    outputs = outputs_of(output, task)
    found = _box_layers(module, x) if task == "detection" else ()
    bare = isinstance(output, Tensor if task == "classification" else tuple)
    return Probe(outputs[0], bare, tuple(runs), tuple(callers), outputs, found)


def outputs_of(output: Any, task: Task, names: Sequence[str] = ()) -> tuple[Tensor, ...]:
    """The checked outputs in what a model gave for one image, as tensors; names: fields of a model of task "tensors".

    Raises UnsupportedModelError where they are not what the task asks for.
    """
    if task == "classification":
        return (_class_logits(output),)
    if task == "tensors":
        return tensors_of(output, names)
    logits, boxes = pair_of(output)
    if not is_pair((logits, boxes)) or logits.shape[0] != 1 or not logits.is_floating_point():
        raise UnsupportedModelError(
            "a detector gives logits [batch, queries, classes] and boxes [batch, queries, 4]",
            got=f"shapes {list(logits.shape)} and {list(boxes.shape)} for a batch of one",
            do="wrap the model in a module whose forward returns (logits, boxes)",
        )
    return logits, boxes


def _class_logits(output: Any) -> Tensor:
    logits = logits_of(output)
    if logits.dim() != 2 or logits.shape[0] != 1 or not logits.is_floating_point():
        raise UnsupportedModelError(
            "a classifier gives logits [batch, classes]",
            got=f"shape {list(logits.shape)} for a batch of one",
            do="wrap the model in a module whose forward returns the logits; a detector returns (logits, boxes [batch, "
            "queries, 4])",
        )
    return logits


def _box_layers(module: nn.Module, x: Tensor) -> tuple[nn.Module, ...]:
    """The Linears of width 4 from which a path leads to the boxes without another layer, told by autograd's graph.

    None where the model cannot be differentiated: its box layers are then told by their names alone.
    """
    layers: dict[Any, nn.Module] = {}  # node of autograd's graph -> the layer that wrote it

    def note(layer: nn.Module, _: Any, output: Tensor) -> None:
        whole = output if output._base is None else output._base  # what an in-place change of a part goes back to
        layers.update({output.grad_fn: layer, whole.grad_fn: layer})

    handles = [m.register_forward_hook(note) for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    try:
        with evaluating(module), torch.enable_grad():
            boxes = pair_of(module(x.clone().requires_grad_().clone()))[1]
    except RuntimeError:
        return ()
    finally:
        for handle in handles:
            handle.remove()
    last = dict.fromkeys(_nearest(boxes.grad_fn, layers))
    return tuple(m for m in last if isinstance(m, nn.Linear) and m.out_features == BOX_WIDTH)


def _nearest(node: Any, layers: Mapping[Any, nn.Module]) -> Iterator[nn.Module]:
    """The layers met on the ways back from a node of autograd's graph, each way up to its first layer."""
    open_nodes, seen = [node], {None}
    while open_nodes:
        node = open_nodes.pop()
        if node in layers:
            yield layers[node]
        elif node not in seen:
            open_nodes += [before for before, _ in node.next_functions]
        seen.add(node)


def run_forward(module: nn.Module, x: Tensor) -> Any:
    """module(x), its failures as UnsupportedModelError naming the input's shape."""
    try:
        return module(x)
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, AssertionError) as error:
        raise UnsupportedModelError(
            f"the model takes images of shape {list(x.shape)}",
            got=f"{type(error).__name__}: {error}",
            do="check input_shape and that forward takes pixel values alone",
        ) from error


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; each submodule's own flag is put back after it."""
    flags = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, flag in flags:
            part.training = flag


@contextmanager
def _recorded(module: nn.Module, runs: list[GemmRun]) -> Iterator[None]:
    def note(layer: nn.Module, _: Any, output: Tensor) -> None:
        runs.append(GemmRun(layer, tuple(output.shape)))

    layers = [m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
