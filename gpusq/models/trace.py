"""Trace one forward pass into a Workload: who multiplies what, who moves how much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gpusq.errors import UnsupportedModelError
from gpusq.models.probe import evaluating, example_input, run_forward
from gpusq.workload import Op, Workload

PRODUCTS = {"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "baddbmm": (1, 2), "mv": (0, 1), "linear": (0, 1)}
FUSED_ATTENTION = "_scaled_dot_product"
KNOWN_OPERATORS = ("aten", "prim", "prims", "gpusq")
OUTPUT_FIELDS = ("logits", "boxes", "pred_logits", "pred_boxes")


def trace_workload(module: nn.Module, input_shape: tuple[int, int, int]) -> Workload:
    """The operators of one forward pass over one image [1, C, H, W].

    Linear and Conv2d give "gemm" operators under their module's name; products of two activations "bmm"; every other
    operator that writes new memory "memory", named "<module>/<operator>". What does not depend on the image (masks,
    tables of positions) is not counted: an engine computes it once. Nor is what no output depends on (heads that
    serve training only). A weight that two layers share is a parameter of each.
    Raises UnsupportedModelError, also for operators of other libraries, whose work cannot be told.
    """
    recorder, output = _record(module, input_shape)
    return Workload(input_shape, recorder.live_ops(output), _stored_parameters(module))


def trace_layers(module: nn.Module, input_shape: tuple[int, int, int]) -> tuple[set[str], set[str]]:
    """(names of the layers that an output depends on, those of them that do not depend on the image)."""
    recorder, output = _record(module, input_shape)
    live = {op.name for op in recorder.live_ops(output) if op.kind == "gemm"}
    return live, recorder.constant_layers() & live


def _record(module: nn.Module, input_shape: tuple[int, int, int]) -> tuple[_Recorder, Any]:
    """What one pass over an image showed, and what the module gave."""
    x = example_input(module, input_shape)
    recorder = _Recorder(module, x)
    with evaluating(module), torch.no_grad(), recorder.hooks(), recorder:
        output = run_forward(module, x)
    return recorder, output


def _stored_parameters(module: nn.Module) -> int:
    """A parameter that several modules share counts for each: each is stored with a mask and scales of its own."""
    return sum(p.numel() for part in module.modules() for p in part.parameters(recurse=False))


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees each operator below the modules; knows which module runs and which tensors stem from the image."""

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.module, self.ops = module, list[Op]()
        self.results: list[int] = []  # for each operator the storage that it wrote
        self.steps: list[tuple[list[int], list[int]]] = []  # storages read and written by each call, in order
        self.path: list[str] = [""]
        self.inside_gemm = 0
        self.live: dict[int, StorageWeakRef] = {}  # a weak reference keeps the address from being given away
        self.kept: dict[int, StorageWeakRef] = {}  # the same for what does not stem from the image
        self.weights = {_address(t) for t in (*module.parameters(), *module.buffers())}
        self._mark(x)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        out = func(*args, **(kwargs or {}))
        outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        self._step(inputs, outputs)
        if any(_address(t) in self.live for t in inputs):
            _check_known(func, self.path[-1])
            for tensor in outputs:
                self._mark(tensor)
            if not self.inside_gemm:
                self._note(func, inputs, outputs)
                self._settle((outputs or inputs)[0])
        return out

    def live_ops(self, output: Any) -> tuple[Op, ...]:
        """The operators that what the model gave depends on, told by the memory they wrote."""
        needed = {_address(t) for t in tensors_in(output)}
        for read, written in reversed(self.steps):
            if not needed.isdisjoint(written):
                needed.update(read)
        return tuple(op for op, result in zip(self.ops, self.results, strict=True) if result in needed)

    def _step(self, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        written = outputs or inputs[:1]
        self.steps.append(([_address(t) for t in inputs], [_address(t) for t in written]))
        for tensor in written:
            self.kept.setdefault(_address(tensor), _weak(tensor))

    def constant_layers(self) -> set[str]:
        """Layers that ran, but never on anything that stems from the image."""
        pairs = zip(self.ops, self.results, strict=True)
        layers = [(op.name, result in self.live) for op, result in pairs if op.kind == "gemm"]
        return {name for name, _ in layers} - {name for name, live in layers if live}

    def _settle(self, written: Tensor) -> None:
        """All operators not settled yet wrote this tensor."""
        self.results += [_address(written)] * (len(self.ops) - len(self.results))

    def _mark(self, tensor: Tensor) -> None:
        self.live.setdefault(_address(tensor), _weak(tensor))

    def _note(self, func: Any, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        name = func._schema.name.rpartition("::")[2]
        read = sum(self._elements(t) for t in inputs)
        write = outputs[0].numel() if outputs else 0  # the others are statistics for a backward pass
        if name in PRODUCTS:
            self._product(name, inputs, read, write)
        elif name.startswith(FUSED_ATTENTION):
            self._fused_attention(inputs, outputs[0])
        elif _writes(func, inputs, outputs):
            self.ops.append(Op(self._name(name), "memory", read=read, write=write))

    def _product(self, name: str, inputs: list[Tensor], read: int, write: int) -> None:
        left, right = (inputs[i] for i in PRODUCTS[name])
        count = left.shape[0] if left.dim() == 3 and right.dim() == 3 else 1
        k = left.shape[-1]
        m = left.numel() // (k * count)
        n = 1 if right.dim() == 1 else right.shape[0 if name == "linear" else -1]
        owned = any(_address(t) in self.weights for t in (left, right))
        self.ops.append(Op(self._name(name), "gemm" if owned else "bmm", m, n, k, count, read, write))

    def _fused_attention(self, inputs: list[Tensor], output: Tensor) -> None:
        """A fused attention as its two products and the softmax between them: q [B, H, L, D], k and v [B, H, S, D]."""
        q, k, v = inputs[:3]
        count, rows, columns = q.shape[0] * q.shape[1], q.shape[-2], k.shape[-2]
        scores = count * rows * columns
        read = q.numel() + k.numel()
        self.ops += [
            Op(self._name("qk"), "bmm", rows, columns, q.shape[-1], count, read, scores),
            Op(self._name("softmax"), "memory", read=scores, write=scores),
            Op(self._name("pv"), "bmm", rows, v.shape[-1], columns, count, scores + v.numel(), output.numel()),
        ]

    def _elements(self, tensor: Tensor) -> int:
        """Elements read from memory: weights count elsewhere, a broadcast value is read once."""
        if _address(tensor) in self.weights:
            return 0
        return min(tensor.numel(), tensor.untyped_storage().nbytes() // tensor.element_size())

    def _name(self, operator: str) -> str:
        return f"{self.path[-1]}/{operator}"

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Follow the modules inside the block."""
        handles = []
        for name, part in self.module.named_modules():
            gemm = isinstance(part, (nn.Linear, nn.Conv2d))
            handles.append(part.register_forward_pre_hook(self._enter(name, gemm)))
            handles.append(part.register_forward_hook(self._leave(name, gemm)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str, gemm: bool) -> Any:
        def enter(part: nn.Module, args: Any) -> None:
            self.path.append(name)
            self.inside_gemm += gemm

        return enter

    def _leave(self, name: str, gemm: bool) -> Any:
        def leave(part: nn.Module, args: Any, output: Any) -> None:
            self.path.pop()
            self.inside_gemm -= gemm
            if isinstance(part, (nn.Linear, nn.Conv2d)):
                self.ops.append(_gemm(name, part, args[0], output))
                self._settle(output)

        return leave


def _gemm(name: str, layer: nn.Linear | nn.Conv2d, x: Tensor, output: Tensor) -> Op:
    """A layer's product; a grouped convolution is `groups` products of [places, K] x [K, out / groups]."""
    if isinstance(layer, nn.Linear):
        rows = output.numel() // layer.out_features
        return Op(name, "gemm", rows, layer.out_features, layer.in_features, 1, x.numel(), output.numel())
    k = layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]
    rows, n = output.shape[-2] * output.shape[-1], layer.out_channels // layer.groups
    return Op(name, "gemm", rows, n, k, layer.groups, x.numel(), output.numel())


def tensors_in(output: Any) -> list[Tensor]:
    """The tensors of what a model gave: its logits or its outputs, where they can be told, else every one."""
    if isinstance(output, Mapping):
        output = [x for x in (output.get(n) for n in OUTPUT_FIELDS) if x is not None] or list(output.values())
    return [t for t in tree_leaves(output) if isinstance(t, Tensor)]


def _check_known(func: Any, place: str) -> None:
    if func.namespace not in KNOWN_OPERATORS:
        raise UnsupportedModelError(
            f"{place or 'the model'} can be traced: it uses operators of PyTorch alone",
            got=f"{func.namespace}::{func._schema.name.rpartition('::')[2]}",
            do="switch the model to its plain PyTorch implementation, such as attn_implementation='eager'",
        )


def _writes(func: Any, inputs: list[Tensor], outputs: list[Tensor]) -> bool:
    """Whether an operator writes memory, rather than giving a view of its input."""
    if func._schema.is_mutable:
        return True
    known = {_address(t) for t in inputs}
    return any(_address(t) not in known for t in outputs)


def _weak(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
