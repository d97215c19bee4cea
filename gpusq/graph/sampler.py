"""GridSample rewritten to gathers, by operators whose results do not depend on an engine's own GridSample.

TensorRT computes GridSample wrong from 10.14 on (NVIDIA/TensorRT#4813, #4646; pytorch/TensorRT#4074, #3674). The
gathers are held to torch's grid_sample in ONNX Runtime; that an engine computes them right on a GPU is not shown
(docs/untested-on-hardware.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from gpusq.errors import UnsupportedModelError
from gpusq.graph.naming import module_path, propose_name

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

Sampler = Literal["grid_sample", "gather"]
EXACT_IN_FLOAT32 = 1 << 24  # larger maps have places whose number float32 cannot hold


def check_sampler(sampler: str) -> None:
    """Raises UnsupportedModelError for a sampler that is not known."""
    if sampler not in get_args(Sampler):
        raise UnsupportedModelError(f"a sampler is one of {', '.join(get_args(Sampler))}", got=repr(sampler))


def gather_grid_samples(model: ir.Model) -> None:
    """Replace every GridSample of `model` (bilinear, zeros padding, 4-D) by gathers, in place.

    Map [N, C, H, W], grid [N, Ho, Wo, 2] (x, y in -1..1) -> [N, C, Ho, Wo]; N may be dynamic. Each point reads its four
    neighbours from the map laid out as [N, H * W, C], by one GatherND without a copy of the indices for each channel,
    and weighs them; neighbours outside weigh nothing. Positions are clipped to one place outside the map before they
    become indices, which changes no result and keeps infinite ones harmless.
    Raises UnsupportedModelError for nearest or cubic interpolation, for padding other than zeros, for unknown sizes.
    """
    for node in [n for n in model.graph if (n.domain, n.op_type) == ("", "GridSample")]:
        sizes = _checked_sizes(node)
        output = node.outputs[0]
        result = _Sampling(model.graph, node).result(*sizes, align_corners=_attribute(node, "align_corners", 0) == 1)
        result.shape = output.shape
        output.replace_all_uses_with(result, replace_graph_outputs=True)
        if output.is_graph_output() or model.graph.outputs.count(result):
            result.name = output.name
        model.graph.remove(node, safe=True)


def _checked_sizes(node: ir.Node) -> tuple[int, int, int, int, int]:
    """(C, H, W, Ho, Wo) of a node that the gathers can compute."""
    mode, padding = _attribute(node, "mode", "linear"), _attribute(node, "padding_mode", "zeros")
    if mode not in ("linear", "bilinear") or padding != "zeros":
        raise UnsupportedModelError(
            f"export: the gather sampler computes grid_sample of {module_path(node) or 'the model'} "
            "with mode bilinear and padding zeros",
            got=f"mode {mode}, padding {padding}",
            do="export with the sampler grid_sample, and check the engine's results",
        )
    shapes = [value.shape for value in node.inputs if value is not None]
    sizes = [size for shape in shapes if shape is not None and len(shape) == 4 for size in list(shape)[1:]]
    known = [size for size in sizes if isinstance(size, int)]
    if len(sizes) != 6 or len(known) != 6:
        raise UnsupportedModelError(
            "export: the gather sampler needs a map [N, C, H, W] and a grid [N, Ho, Wo, 2] with only N dynamic",
            got=" and ".join(map(str, shapes)),
            do="export with the sampler grid_sample, or give the model a fixed image size",
        )
    channels, height, width, rows, columns, _ = known
    if height * width >= EXACT_IN_FLOAT32:
        raise UnsupportedModelError("export: a sampled map has less than 2**24 places", got=f"{height} x {width}")
    return channels, height, width, rows, columns


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value


class _Sampling:
    """Builds the nodes that take the place of one GridSample, right before it."""

    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        self.graph, self.node = graph, node
        self.prefix = "/".join(part for part in (module_path(node), "grid_sample") if part)

    def result(self, c: int, h: int, w: int, rows: int, columns: int, *, align_corners: bool) -> ir.Value:
        """The sampled map [N, C, rows, columns]."""
        points = rows * columns
        index, weight = self._corners(np.array([w, h], np.float32), points, align_corners)
        flat = self._op("Reshape", self.node.inputs[0], _shape(0, c, h * w))
        places = self._op("Transpose", flat, perm=[0, 2, 1])
        gathered = self._op("GatherND", places, index, batch_dims=1)  # [N, 4 * points, C]
        found = self._op("Reshape", gathered, _shape(0, points, 4, c))
        summed = self._op("ReduceSum", self._op("Mul", found, weight), _shape(2), keepdims=0)
        return self._op("Reshape", self._op("Transpose", summed, perm=[0, 2, 1]), _shape(0, c, rows, columns))

    def _corners(self, size: NDArray[np.float32], points: int, align_corners: bool) -> tuple[ir.Value, ir.Value]:
        """Index [N, 4 * points, 1] and weight [N, points, 4, 1] of the four neighbours; size: (W, H)."""
        op, one, last = self._op, np.ones(2, np.float32), size - 1
        flat = op("Reshape", self.node.inputs[1], _shape(0, points, 2))
        scaled = op("Mul", flat, last / 2 if align_corners else size / 2)
        position = op("Min", op("Max", op("Add", scaled, last / 2), -one), size)
        low = op("Floor", position)
        high, share = op("Add", low, one), op("Sub", position, low)
        near, far = (op("Min", op("Max", place, 0 * one), last) for place in (low, high))
        weights = (
            op("Mul", op("Sub", one, share), self._inside(low, near)),
            op("Mul", share, self._inside(high, far)),
        )
        (x, y), (weight_x, weight_y) = self._outer(near, far), self._outer(*weights)
        place = op("Add", op("Mul", y, size[:1]), x)  # [N, points, 2 (y), 2 (x)]
        index = op("Cast", op("Reshape", place, _shape(0, 4 * points, 1)), to=7)
        return index, op("Reshape", op("Mul", weight_y, weight_x), _shape(0, points, 4, 1))

    def _inside(self, place: ir.Value, clipped: ir.Value) -> ir.Value:
        """1 where clipping changed nothing, 0 one place outside; further out the share that it meets is 0."""
        one = np.ones(1, np.float32)
        return self._op("Sub", one, self._op("Abs", self._op("Sub", place, clipped)))

    def _outer(self, near: ir.Value, far: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Both [N, points, 2 (x, y)] -> x [N, points, 1, 2 (near, far)] and y [N, points, 2 (near, far), 1]."""
        both = self._op("Concat", *(self._op("Unsqueeze", v, _shape(3)) for v in (near, far)), axis=3)
        x = self._op("Slice", both, _shape(0), _shape(1), _shape(2))
        y = self._op("Slice", both, _shape(1), _shape(2), _shape(2))
        return x, self._op("Transpose", y, perm=[0, 1, 3, 2])

    def _op(self, kind: str, *inputs: ir.Value | NDArray[Any] | None, **attributes: Any) -> ir.Value:
        import onnx_ir as ir

        values = [self._constant(x) if isinstance(x, np.ndarray) else x for x in inputs]
        node = ir.node(kind, values, attributes or None)
        integer = kind == "Cast"
        node.outputs[0].type = ir.TensorType(ir.DataType.INT64 if integer else ir.DataType.FLOAT)
        propose_name(node, f"{self.prefix}/{kind}")
        self.node.prepend(node)
        return node.outputs[0]

    def _constant(self, array: NDArray[Any]) -> ir.Value:
        """An initializer, one for equal arrays; without a dot in its name, so that it is named by its first use."""
        import onnx_ir as ir

        name = f"grid_sample_{array.dtype}_{'_'.join(str(x).replace('.', 'p') for x in array.tolist())}"
        if name not in self.graph.initializers:
            tensor = ir.tensor(array)
            value = ir.val(name, dtype=tensor.dtype, shape=list(array.shape), const_value=tensor)
            self.graph.register_initializer(value)
        return self.graph.initializers[name]


def _shape(*sizes: int) -> NDArray[np.int64]:
    """Integers for a Reshape, Slice, Unsqueeze or ReduceSum; 0 in a Reshape copies the dimension."""
    return np.array(sizes, np.int64)
