"""Whole numbers and sizes that a traced forward takes from the values in the image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node

ITEMS = ("aten::item", "aten::_local_scalar_dense")
CHOOSING = ("aten::index", "aten::masked_select")
"""Operators whose second argument alone, a mask, decides how much they give."""
FRESH = ("aten::new_", "aten::zeros_like", "aten::ones_like", "aten::full_like", "aten::empty_like")
"""Operators that take nothing of a tensor but its shape and type."""


def number_from_image(program: ExportedProgram) -> Node | None:
    """The first step of a program at which a whole number, or a size of an output, depends on the image's values.

    A whole number: .item(), int() or .tolist() of a tensor, which then serves as a size, a place, a shift or a factor.
    A size: also that of what a mask picks. None where there is neither. Numbers and sizes from constants and weights
    are the same for every image and none of these; a float from .item() is a value like any other.
    """
    found = _Dependence(set(program.graph_signature.user_inputs))
    nodes: list[Node] = list(program.graph.nodes)
    taken = next((node for node in nodes if found.takes(node)), None)
    return taken or found.size_of(nodes[-1])


class _Dependence:
    """What depends on the image, followed through a graph from its input."""

    def __init__(self, inputs: set[str]) -> None:
        self._inputs = inputs
        self._nodes: set[Node] = set()  # tensors of the image's values
        self._numbers: dict[Any, Node] = {}  # symbol of a number -> the .item() that gave it
        self._sizes: dict[Any, Node] = {}  # symbol of any size or number -> the step that gave it

    def takes(self, node: Node) -> bool:
        """Follow one step; whether it gives a whole number of the image's values."""
        value = node.meta.get("val")
        bound = node.meta.get("unbacked_bindings") or {}
        if _is_number(value):
            item = _operator(node).startswith(ITEMS) and self._any(node.all_input_nodes)
            if item:
                self._numbers |= dict.fromkeys(bound, node)
                self._sizes |= dict.fromkeys(bound, node)
            return _is_whole(value) and bool(_symbols(value) & set(self._numbers))
        if node.op == "placeholder":
            stems = node.name in self._inputs
        else:
            stems = self._any(node.all_input_nodes) and not _operator(node).startswith(FRESH)
        if stems:
            self._nodes.add(node)
        if bound and self._any(_deciding(node)):
            self._sizes |= dict.fromkeys(bound, node)
        return False

    def size_of(self, output: Node) -> Node | None:
        """The step that made a size of the program's outputs depend on the image."""
        for given in output.all_input_nodes:
            for size in getattr(given.meta.get("val"), "shape", ()):
                for symbol in _symbols(size) & set(self._sizes):
                    return self._sizes[symbol]
        return None

    def _any(self, nodes: list[Node]) -> bool:
        return any(n in self._nodes or _symbols(n.meta.get("val")) & set(self._sizes) for n in nodes)


def _deciding(node: Node) -> list[Node]:
    """What decides the size of a step's output: numbers given to it, else a mask, else the values of its tensors."""
    numbers = [n for n in node.all_input_nodes if _is_number(n.meta.get("val"))]
    if numbers or not _operator(node).startswith(CHOOSING):
        return numbers or node.all_input_nodes
    return list(_nodes_in(node.args[1]))


def _nodes_in(argument: Any) -> Iterator[Node]:
    from torch.fx import Node

    for part in argument if isinstance(argument, (list, tuple)) else [argument]:
        if isinstance(part, Node):
            yield part


def _operator(node: Node) -> str:
    """ "aten::item" of a call of that operator, "" of what is no operator of PyTorch."""
    return str(getattr(getattr(node.target, "_schema", None), "name", ""))


def _is_number(value: Any) -> bool:
    import torch

    return isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool))


def _is_whole(value: Any) -> bool:
    import torch

    return isinstance(value, (torch.SymInt, torch.SymBool))


def _symbols(value: Any) -> set[Any]:
    """The symbols in a number."""
    from torch.fx.experimental.symbolic_shapes import free_symbols

    return set(free_symbols(value)) if _is_number(value) else set()
