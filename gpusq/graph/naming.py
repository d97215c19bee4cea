"""Names that a reader and a layer dump can follow: every node and tensor carries the path of its module."""

from __future__ import annotations

import ast
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

_SCOPES = "pkg.torch.onnx.name_scopes"
_NAME = "gpusq.name"


class UniqueNames:
    """Hands out each name once: "a", "a_2", "a_3"."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = set(taken)
        self._count: Counter[str] = Counter()

    def __call__(self, wanted: str) -> str:
        name = wanted
        while name in self._taken:
            self._count[wanted] += 1
            name = f"{wanted}_{self._count[wanted] + 1}"
        self._taken.add(name)
        return name


def module_path(node: ir.Node) -> str:
    """Path of the module whose forward made this node ("vit.layers.0.mlp.fc1"); "" for the root or unknown."""
    recorded = node.metadata_props.get(_SCOPES)
    if recorded is None:
        return ""
    scopes: list[str] = ast.literal_eval(recorded)
    path = scopes[-2] if len(scopes) > 1 else ""
    return path if path.isprintable() and not path.startswith("_empty") else ""


def propose_name(node: ir.Node, name: str) -> None:
    """Fix the name that `name_everything` will give to a node that a pass has made."""
    node.metadata_props[_NAME] = name


def layer_of(node_name: str) -> str:
    """Module path of a named node: "vit.layers.0.mlp.fc1/MatMul" -> "vit.layers.0.mlp.fc1"; "" for the root."""
    return node_name.rpartition("/")[0]


def name_everything(model: ir.Model) -> None:
    """Name nodes, their outputs and unnamed constants by module path; inputs and outputs of the graph keep theirs.

    A node is "<module path>/<OpType>"; its first output has the same name; a constant that is no parameter of the
    model is "<first consumer>/<input position>", or "<module path>.weight" where it is the weight of a MatMul.
    """
    graph = model.graph
    fixed = {value.name or "" for value in [*graph.inputs, *graph.outputs]}
    node_names, value_names = UniqueNames(set()), UniqueNames(fixed | _parameter_names(graph))
    for node in graph:
        path = module_path(node)
        node.name = node_names(node.metadata_props.get(_NAME) or (f"{path}/{node.op_type}" if path else node.op_type))
        for position, output in enumerate(node.outputs):
            if not output.is_graph_output() and output.name != "":
                output.name = value_names(node.name if position == 0 else f"{node.name}/output_{position}")
    _name_constants(graph, value_names)


def _parameter_names(graph: ir.Graph) -> set[str]:
    """Parameters, scales and zero points have a dot in their names; constants of the forward have none."""
    return {name for name in graph.initializers if "." in name}


def _name_constants(graph: ir.Graph, unique: UniqueNames) -> None:
    done: set[int] = set()
    for node in graph:
        for position, value in enumerate(node.inputs):
            if value is None or not value.is_initializer() or "." in (value.name or "") or id(value) in done:
                continue
            path = layer_of(node.name or "")
            is_weight = node.op_type in ("MatMul", "Gemm", "Conv") and position == 1 and path
            value.name = unique(f"{path}.weight" if is_weight else f"{node.name}/constant_{position}")
            done.add(id(value))
