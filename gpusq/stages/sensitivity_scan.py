"""What each block loses by 2:4 pruning, by INT8 and by both, one-shot; and which blocks to leave out of them.

Every variant is the dense model with one block changed, judged on the same images. Nothing is trained, so the losses
are those before fine-tuning: an upper bound that ranks the blocks, not a forecast of the final accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from gpusq.quantization import FakeQuantizer, QuantConv2d, QuantLinear, calibrate, insert, place, shared_inputs
from gpusq.stages.model_files import ModelState
from gpusq.stages.pruning import prune_layer
from gpusq.stages.quantizing import skipped_layers
from gpusq.workload import Layer

Form = Literal["sparse", "int8", "both"]
FORMS: tuple[Form, ...] = ("sparse", "int8", "both")
OUTSIDE = "outside the blocks"


@dataclass(frozen=True)
class Loss:
    """Against the dense model: points of the metric lost (below 0: gained) and the relative error of the outputs."""

    points: float
    error: float


@dataclass(frozen=True)
class Choice:
    """One step of leaving blocks out: the block, what it is left out of ("sparse" or "int8"), and what the whole model
    (all other blocks sparse and INT8) then loses."""

    block: str
    kept: Form
    loss: Loss


@dataclass(frozen=True)
class Scan:
    """losses: block -> form -> Loss. whole: all blocks sparse and INT8. trail: the steps taken to get under the limit.

    keep_dense, keep_float: layers to leave out of 2:4 and out of INT8. reached: whether the limit was reached.
    """

    losses: dict[str, dict[str, Loss]]
    whole: Loss
    trail: tuple[Choice, ...]
    keep_dense: tuple[str, ...]
    keep_float: tuple[str, ...]
    reached: bool


Measure = Callable[[nn.Module], Loss]
Listener = Callable[[int, int, str], None]


@dataclass
class Switchboard:
    """A model whose layers can each be set to dense or 2:4, float or INT8, and back.

    groups: block -> its layers that 2:4 or INT8 can take.
    """

    module: nn.Module
    groups: dict[str, tuple[str, ...]]
    sparse_weights: dict[str, Tensor]
    quantized: frozenset[str]
    dense_weights: dict[str, Tensor] = field(default_factory=dict)

    def set(self, sparse: Collection[str], int8: Collection[str]) -> None:
        """Blocks of `sparse` become 2:4, blocks of `int8` INT8, all others dense and float."""
        for block, layers in self.groups.items():
            for name in layers:
                self._set_layer(name, block in sparse, block in int8)

    def _set_layer(self, name: str, sparse: bool, int8: bool) -> None:
        layer = cast(nn.Linear, self.module.get_submodule(name))
        if name in self.sparse_weights:
            kept = self.dense_weights.setdefault(name, layer.weight.detach().clone())
            with torch.no_grad():
                layer.weight.copy_(self.sparse_weights[name] if sparse else kept)
        if name in self.quantized and isinstance(layer, (QuantLinear, QuantConv2d)):
            _set_quantizers(layer, int8)


def _set_quantizers(layer: QuantLinear | QuantConv2d, on: bool) -> None:
    for part in (layer.weight_quantizer, layer.input_quantizer, layer.output_quantizer):
        if isinstance(part, FakeQuantizer):
            part.mode = "quantize" if on else "off"
    if on and isinstance(layer.weight_quantizer, FakeQuantizer):
        layer.weight_quantizer.set_range(layer.weight.detach().flatten(1).abs().amax(dim=1))


def groups_of(blocks: Sequence[str], layers: Iterable[Layer], wanted: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Block -> its layers among `wanted`, in the model's order; layers in no block are one group, OUTSIDE."""
    found: dict[str, list[str]] = {block: [] for block in blocks}
    outside: list[str] = []
    for layer in layers:
        if layer.name in wanted:
            home = next((b for b in blocks if layer.name == b or layer.name.startswith(f"{b}.")), None)
            (outside if home is None else found[home]).append(layer.name)
    named = {block: tuple(names) for block, names in found.items() if names}
    return named | ({OUTSIDE: tuple(outside)} if outside else {})


def switchboard(
    state: ModelState,
    chosen: Sequence[Layer],
    statistics: Mapping[str, Any],
    score: Any,
    batches: Iterable[Tensor],
    calibrator: Any,
) -> Switchboard:
    """Prune every layer of `chosen` aside and calibrate quantizers for every layer that Qat would quantize."""
    module = state.module
    sparse: dict[str, Tensor] = {}
    for layer in chosen:
        part = cast(nn.Linear, module.get_submodule(layer.name))
        before = part.weight.detach().clone()
        prune_layer(part, score, statistics.get(layer.name), layer.groups)
        sparse[layer.name] = part.weight.detach().clone()
        with torch.no_grad():
            part.weight.copy_(before)
    skip = skipped_layers(state, ())
    names = [layer.name for layer in state.layers if layer.name not in skip]
    example = torch.zeros(1, *state.workload.input_shape, device=next(module.parameters()).device)
    insert(module, place("inputs", state.layers, (), tuple(skip), 8, shared_inputs(module, names, example)))
    calibrate(module, batches, calibrator)
    groups = groups_of(state.loaded.blocks, state.layers, {*names, *sparse})
    board = Switchboard(module, groups, sparse, frozenset(names))
    board.set((), ())
    return board


def scan(board: Switchboard, measure: Measure, max_drop: float, listen: Listener) -> Scan:
    """Measure every block in every form, then leave out the costliest until the whole loses at most `max_drop` points.

    A block is first left out of the form that costs it more, then, where that costs too, of the other. A block stays
    in each form that alone costs it no points (or gains some): the limit may then stay out of reach.
    """
    blocks = list(board.groups)
    total = len(blocks) * len(FORMS) + 1
    losses: dict[str, dict[str, Loss]] = {}
    for index, block in enumerate(blocks):
        losses[block] = {}
        for step, form in enumerate(FORMS):
            listen(index * len(FORMS) + step, total, f"{block}: {form}")
            board.set((block,) if form != "int8" else (), (block,) if form != "sparse" else ())
            losses[block][form] = measure(board.module)
    board.set(blocks, blocks)
    whole = measure(board.module)
    listen(total, total, f"all blocks: {whole.points:+.2f} points lost")
    trail, dense, floats = _leave_out(board, measure, losses, whole, max_drop, listen)
    last = trail[-1].loss if trail else whole
    board.set((), ())
    return Scan(
        losses,
        whole,
        tuple(trail),
        tuple(n for b in dense for n in board.groups[b] if n in board.sparse_weights),
        tuple(n for b in floats for n in board.groups[b] if n in board.quantized),
        last.points <= max_drop,
    )


def _leave_out(
    board: Switchboard,
    measure: Measure,
    losses: Mapping[str, Mapping[str, Loss]],
    whole: Loss,
    max_drop: float,
    listen: Listener,
) -> tuple[list[Choice], list[str], list[str]]:
    """(trail, blocks kept dense, blocks kept in floating point)."""
    trail: list[Choice] = []
    dense: list[str] = []
    floats: list[str] = []
    waiting = _costliest_first(losses)
    now = whole
    while now.points > max_drop and waiting:
        block, form = waiting.pop(0)
        (dense if form == "sparse" else floats).append(block)
        board.set([b for b in board.groups if b not in dense], [b for b in board.groups if b not in floats])
        now = measure(board.module)
        trail.append(Choice(block, form, now))
        listen(len(trail), len(trail), f"{block} left out of {form}: {now.points:+.2f} points lost")
    return trail, dense, floats


def _costliest_first(losses: Mapping[str, Mapping[str, Loss]]) -> list[tuple[str, Form]]:
    """(block, form) by what leaving that block out of that form saves; equal points rank by the outputs' error.

    Only those that cost something: the others would be slower for nothing.
    """
    alone: tuple[Form, ...] = ("sparse", "int8")
    every = [(f[form].points, f[form].error, block, form) for block, f in losses.items() for form in alone]
    single = [entry for entry in every if entry[0] > 0]
    single.sort(key=lambda entry: entry[:2], reverse=True)
    return [(block, form) for _, _, block, form in single]
