"""The gather sampler computes what F.grid_sample computes, everywhere, and refuses what it does not compute."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from gpusq.errors import UnsupportedModelError
from gpusq.graph.export_onnx import export_onnx
from gpusq.graph.float_islands import float32_nodes
from gpusq.graph.fp16 import to_fp16
from gpusq.graph.model_file import model_bytes
from gpusq.graph.sampler import gather_grid_samples

HEIGHT, WIDTH, ROWS, COLUMNS, CHANNELS = 5, 7, 3, 4, 2
COORDINATES = st.one_of(
    st.floats(-3, 3, width=32),
    st.sampled_from([-1.0, 1.0, 0.0, -1e30, 1e30, np.inf, -np.inf]),
    st.integers(-1, WIDTH).map(lambda i: (2 * i + 1) / WIDTH - 1),  # the middle of a place, corners not aligned
    st.integers(-1, WIDTH).map(lambda i: 2 * i / (WIDTH - 1) - 1),  # the same, corners aligned
)


class Sampled(nn.Module):
    """pixel_values [B, C + 1, H, W]: the last channel's first numbers are the grid, the others the map."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, pixel_values: Tensor) -> Tensor:
        rows = pixel_values[:, CHANNELS].flatten(1)[:, : ROWS * COLUMNS * 2]
        return F.grid_sample(pixel_values[:, :CHANNELS], rows.reshape(-1, ROWS, COLUMNS, 2), **self.options)


def sampling_model(align_corners: bool, opset: int = 21) -> ir.Model:
    """A bare GridSample: map [batch, C, H, W], grid [batch, ROWS, COLUMNS, 2] -> sampled."""
    shapes = {"map": ("batch", CHANNELS, HEIGHT, WIDTH), "grid": ("batch", ROWS, COLUMNS, 2)}
    inputs = [ir.val(name, dtype=ir.DataType.FLOAT, shape=ir.Shape(shape)) for name, shape in shapes.items()]
    mode = "linear" if opset >= 20 else "bilinear"
    node = ir.node("GridSample", inputs, {"mode": mode, "align_corners": int(align_corners)}, name="a.b/GridSample")
    output = node.outputs[0]
    output.name, output.type = "sampled", ir.TensorType(ir.DataType.FLOAT)
    output.shape = ir.Shape(("batch", CHANNELS, ROWS, COLUMNS))
    return ir.Model(ir.Graph(inputs, [output], nodes=[node], opset_imports={"": opset}, name="g"), ir_version=10)


def session(model: ir.Model) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model_bytes(model), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def gathered() -> dict[bool, onnxruntime.InferenceSession]:
    models = {align: sampling_model(align) for align in (False, True)}
    for model in models.values():
        gather_grid_samples(model)
    return {align: session(model) for align, model in models.items()}


@given(st.data(), st.integers(1, 3), st.booleans(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_equals_torch_at_any_point(
    gathered: dict[bool, onnxruntime.InferenceSession], data: st.DataObject, batch: int, align: bool, seed: int
) -> None:
    size = batch * ROWS * COLUMNS * 2
    numbers = data.draw(st.lists(COORDINATES, min_size=size, max_size=size))
    grid = np.float32(numbers).reshape(batch, ROWS, COLUMNS, 2)
    values = np.random.default_rng(seed).standard_normal((batch, CHANNELS, HEIGHT, WIDTH), dtype=np.float32)
    (found,) = gathered[align].run(None, {"map": values, "grid": grid})
    bounded = torch.from_numpy(np.clip(grid, -1e6, 1e6))  # torch itself is not defined at infinity
    expected = F.grid_sample(torch.from_numpy(values), bounded, align_corners=align).numpy()
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() <= 2e-5


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("opset", [18, 21])
def test_a_traced_module_exports_with_gathers_alone(align: bool, opset: int) -> None:
    module = Sampled(align_corners=align)
    model = export_onnx(module, (CHANNELS + 1, HEIGHT, WIDTH), opset=opset, sampler="gather")
    count = Counter(node.op_type for node in model.graph)
    assert (count["GridSample"], count["GatherND"]) == (0, 1)
    assert len({node.name for node in model.graph}) == len(list(model.graph))
    images = torch.rand(5, CHANNELS + 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) * 3 - 1.5
    (found,) = session(model).run(None, {"pixel_values": images.numpy()})
    assert np.abs(found - module(images).numpy()).max() <= 1e-5


def test_the_default_keeps_grid_sample() -> None:
    model = export_onnx(Sampled(align_corners=False), (CHANNELS + 1, HEIGHT, WIDTH))
    assert "GridSample" in {node.op_type for node in model.graph}


@pytest.mark.parametrize(
    "options", [{"mode": "nearest"}, {"mode": "bicubic"}, {"padding_mode": "border"}, {"padding_mode": "reflection"}]
)
def test_refuses_what_it_does_not_compute(options: dict[str, str]) -> None:
    module = Sampled(align_corners=False, **options)
    with pytest.raises(UnsupportedModelError, match="mode bilinear and padding zeros") as caught:
        export_onnx(module, (CHANNELS + 1, HEIGHT, WIDTH), sampler="gather")
    expected = {"bicubic": "cubic"}.get(*options.values(), *options.values())
    assert expected in caught.value.got
    assert "sampler grid_sample" in caught.value.do


def test_refuses_unknown_sizes_and_samplers() -> None:
    model = sampling_model(False)
    model.graph.inputs[1].shape = ir.Shape(("batch", "rows", COLUMNS, 2))
    with pytest.raises(UnsupportedModelError, match="only N dynamic"):
        gather_grid_samples(model)
    with pytest.raises(UnsupportedModelError, match="one of grid_sample, gather"):
        export_onnx(Sampled(), (CHANNELS + 1, HEIGHT, WIDTH), sampler="scatter")  # type: ignore[arg-type]


def test_refuses_a_map_whose_places_float32_cannot_number() -> None:
    model = sampling_model(False)
    model.graph.inputs[0].shape = ir.Shape(("batch", 1, 4096, 4096))
    with pytest.raises(UnsupportedModelError, match="places"):
        gather_grid_samples(model)


def wide_model(width: int) -> tuple[nn.Module, tuple[int, int, int]]:
    """A map wider than FP16 can count, read in the middle of each place."""

    class Wide(nn.Module):
        def forward(self, pixel_values: Tensor) -> Tensor:
            grid = torch.stack([pixel_values[:, 1], torch.zeros_like(pixel_values[:, 1])], -1)
            return F.grid_sample(pixel_values[:, :1], grid, align_corners=False)

    return Wide(), (2, 1, width)


def test_fp16_keeps_the_places_of_a_map_of_5000_columns() -> None:
    """In FP16 the place 4,001 does not exist: the index would be 4,000, another value altogether."""
    width = 5000
    module, shape = wide_model(width)
    half = to_fp16(export_onnx(module, shape, sampler="gather"))
    places = np.array([1, 2049, 4001, 4999])
    images = np.zeros((1, *shape), np.float32)
    images[0, 0, 0] = np.arange(width) % 7
    images[0, 1, 0, : len(places)] = (2 * places + 1) / width - 1
    (found,) = session(half).run(None, {"pixel_values": images})
    assert np.abs(found[0, 0, 0, : len(places)] - places % 7).max() < 0.02


def test_fp16_casts_the_values_but_not_the_places() -> None:
    model = export_onnx(Sampled(align_corners=False), (CHANNELS + 1, HEIGHT, WIDTH), sampler="gather")
    half = to_fp16(model)
    kinds = {node.op_type: node.outputs[0].dtype for node in half.graph if node.op_type in ("Floor", "GatherND")}
    assert kinds == {"Floor": ir.DataType.FLOAT, "GatherND": ir.DataType.FLOAT16}
    assert {node.op_type for node in float32_nodes(model.graph)} >= {"Floor", "Min", "Max", "Sub", "Abs"}
