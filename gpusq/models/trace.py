"""Trace one forward pass into a Workload: who multiplies what, who moves how much."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gpusq.models.probe import evaluating, example_input, run_forward
from gpusq.workload import Op, Workload

PRODUCTS = {"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "baddbmm": (1, 2), "mv": (0, 1), "linear": (0, 1)}
FUSED_ATTENTION = "_scaled_dot_product"


def trace_workload(module: nn.Module, input_shape: tuple[int, int, int]) -> Workload:
    """The operators of one forward pass over one image [1, C, H, W].

    Linear and Conv2d give "gemm" operators under their module's name; products of two activations "bmm"; every other
    operator that writes new memory "memory", named "<module>/<operator>". What does not depend on the image (masks,
    tables of positions) is not counted: an engine computes it once. A weight that two layers share is a parameter of
    each. Raises UnsupportedModelError.
    """
    x = example_input(module, input_shape)
    recorder = _Recorder(module, x)
    with evaluating(module), torch.no_grad(), recorder.hooks(), recorder:
        run_forward(module, x)
    return Workload(input_shape, tuple(recorder.ops), _stored_parameters(module))


def _stored_parameters(module: nn.Module) -> int:
    """A parameter that several modules share counts for each: each is stored with a mask and scales of its own."""
    return sum(p.numel() for part in module.modules() for p in part.parameters(recurse=False))


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees each operator below the modules; knows which module runs and which tensors stem from the image."""

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.module, self.ops = module, list[Op]()
        self.path: list[str] = [""]
        self.inside_gemm = 0
        self.live: dict[int, StorageWeakRef] = {}  # a weak reference keeps the address from being given away
        self.weights = {_address(t) for t in (*module.parameters(), *module.buffers())}
        self._mark(x)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        out = func(*args, **(kwargs or {}))
        if any(_address(t) in self.live for t in inputs):
            outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
            for tensor in outputs:
                self._mark(tensor)
            if not self.inside_gemm:
                self._note(func, inputs, outputs)
        return out

    def _mark(self, tensor: Tensor) -> None:
        self.live.setdefault(_address(tensor), StorageWeakRef(tensor.untyped_storage()))  # type: ignore[no-untyped-call]

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

        return leave


def _gemm(name: str, layer: nn.Linear | nn.Conv2d, x: Tensor, output: Tensor) -> Op:
    """A layer's product; a grouped convolution is `groups` products of [places, K] x [K, out / groups]."""
    if isinstance(layer, nn.Linear):
        rows = output.numel() // layer.out_features
        return Op(name, "gemm", rows, layer.out_features, layer.in_features, 1, x.numel(), output.numel())
    k = layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]
    rows, n = output.shape[-2] * output.shape[-1], layer.out_channels // layer.groups
    return Op(name, "gemm", rows, n, k, layer.groups, x.numel(), output.numel())


def _writes(func: Any, inputs: list[Tensor], outputs: list[Tensor]) -> bool:
    """Whether an operator writes memory, rather than giving a view of its input."""
    if func._schema.is_mutable:
        return True
    known = {_address(t) for t in inputs}
    return any(_address(t) not in known for t in outputs)


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
