"""Outputs of named blocks, caught while a model runs."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from gpusq.errors import UnsupportedModelError


class BlockOutputs:
    """While open, `outputs` holds the latest output tensor of each named block (the first of a tuple)."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        self.outputs: dict[str, Tensor] = {}
        self._blocks = {name: module.get_submodule(name) for name in names}
        self._handles: list[Any] = []

    def __enter__(self) -> BlockOutputs:
        for name, block in self._blocks.items():
            self._handles.append(block.register_forward_hook(self._keeper(name)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.outputs = {}

    def take(self) -> dict[str, Tensor]:
        """The outputs of the last forward pass, in the order of the names; forgets them."""
        taken = {name: self.outputs[name] for name in self._blocks if name in self.outputs}
        self.outputs = {}
        return taken

    def _keeper(self, name: str) -> Any:
        def keep(block: nn.Module, args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, (tuple, list)) else output
            if not isinstance(first, Tensor):
                raise UnsupportedModelError(
                    f"block {name} must return a tensor first", got=type(first).__name__, do="set gamma to 0"
                )
            self.outputs[name] = first

        return keep
