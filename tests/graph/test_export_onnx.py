"""The export computes what the module computes, in INT8, under readable names, always in the same bytes."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from gpusq.errors import NonFiniteError, UnsupportedModelError
from gpusq.graph.export_onnx import export_onnx
from gpusq.graph.lowering import quantize
from gpusq.graph.model_file import model_bytes, read_model

SHAPE = (3, 8, 8)
LINEARS = [f"blocks.{i}.{name}" for i in range(2) for name in ("q", "k", "v", "out", "fc1", "fc2")] + ["embed"]


def run(model: ir.Model, images: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(model_bytes(model), providers=["CPUExecutionProvider"])
    return session.run(None, {"pixel_values": images.numpy()})[0]


@pytest.mark.parametrize("batch", [1, 7])
def test_runtime_agrees_with_torch_at_any_batch(
    tiny: nn.Module, exported: ir.Model, images: Tensor, batch: int
) -> None:
    with torch.no_grad():
        expected = tiny(images[:batch]).numpy()
    found = run(exported, images[:batch])
    assert np.abs(found - expected).max() <= 0.02 * np.abs(expected).max()


def test_the_file_is_valid_onnx_with_a_dynamic_batch(exported: ir.Model) -> None:
    proto = onnx.load_from_string(model_bytes(exported))
    onnx.checker.check_model(proto, full_check=True)
    assert [o.domain for o in proto.opset_import] == [""]
    assert proto.graph.input[0].name == "pixel_values"
    assert proto.graph.output[0].name == "logits"
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_weights_are_int8_with_the_integers_of_the_op(tiny: nn.Module, exported: ir.Model) -> None:
    for name in LINEARS:
        stored = exported.graph.initializers[f"{name}.weight_int8"].const_value.numpy()
        layer = tiny.get_submodule(name)
        scale = layer.weight_quantizer.scale
        expected = torch.clamp(torch.round(layer.weight / scale[:, None]), -127, 127).to(torch.int8).T
        assert stored.dtype == np.int8
        assert np.array_equal(stored, expected.numpy())  # [K, N], as MatMul reads it
        assert np.array_equal(exported.graph.initializers[f"{name}.weight_scale"].const_value.numpy(), scale.numpy())


def test_no_quantizer_pair_is_shared(exported: ir.Model) -> None:
    pairs = [n for n in exported.graph if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    assert all(len(node.outputs[0].uses()) == 1 for node in pairs)
    names = {node.name for node in pairs}
    assert {f"blocks.0.{x}/input_QuantizeLinear" for x in "qkv"} <= names


def test_the_pair_of_a_transposed_operand_stands_right_before_its_product(exported: ir.Model) -> None:
    pairs = [n for n in exported.graph if n.name == "blocks.0.key_quantizer/DequantizeLinear"]
    assert [use.node.op_type for use in pairs[0].outputs[0].uses()] == ["MatMul"]


def test_norm_and_gelu_stay_whole_and_nothing_is_left_over(exported: ir.Model) -> None:
    count = Counter(node.op_type for node in exported.graph)
    assert count["LayerNormalization"] == 4
    assert count["Gelu"] == 2
    assert not {"FakeQuantize", "Constant", "Identity", "Erf", "IsNaN", "Where"} & set(count)


def test_names_carry_the_module_path_and_are_unique(exported: ir.Model) -> None:
    names = [node.name for node in exported.graph]
    assert len(set(names)) == len(names)
    assert {f"{name}/MatMul" for name in LINEARS} <= set(names)
    assert not [name for name in names if re.search(r"node_|val_", name or "")]
    assert {"blocks.0.norm1.weight", "head.weight", "head.bias"} <= set(exported.graph.initializers)


def test_same_module_same_bytes(tiny: nn.Module, exported: ir.Model) -> None:
    assert model_bytes(export_onnx(tiny, SHAPE)) == model_bytes(exported)


def test_bytes_hold_no_paths_and_no_doc_strings(exported: ir.Model) -> None:
    data = model_bytes(exported)
    assert not [word for word in (b"/work", b".py", b"site-packages", b"stack_trace", b"namespace") if word in data]


def test_other_process_same_bytes(exported: ir.Model) -> None:
    here = Path(__file__).parent
    code = (
        "import sys, hashlib, torch; sys.path.insert(0, sys.argv[1]); import conftest\n"
        "from gpusq.graph.export_onnx import export_onnx; from gpusq.graph.model_file import model_bytes\n"
        "torch.manual_seed(0)\n"
        "print(hashlib.sha256(model_bytes(export_onnx(conftest.Tiny().eval(), conftest.SHAPE))).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(here)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [hashlib.sha256(model_bytes(exported)).hexdigest()]


def test_the_exporter_is_silent_and_the_mode_is_kept(tiny: nn.Module, capfd: pytest.CaptureFixture[str]) -> None:
    tiny.blocks[0].train()
    try:
        export_onnx(tiny, SHAPE)
        assert tiny.blocks[0].training
        assert tiny.blocks[0].fc1.training
        assert not tiny.training
    finally:
        tiny.eval()
    assert capfd.readouterr() == ("", "")


def test_read_model_is_the_inverse_and_refuses_other_bytes(exported: ir.Model, tmp_path: Path) -> None:
    data = model_bytes(exported)
    assert model_bytes(read_model(data)) == data
    (tmp_path / "m.onnx").write_bytes(data)
    assert model_bytes(read_model(tmp_path / "m.onnx")) == data
    for bad in (b"", b"not a model", data[: len(data) // 2]):
        with pytest.raises(UnsupportedModelError):
            read_model(bad)


def test_quantize_is_symmetric_and_bounded() -> None:
    values = np.linspace(-3, 3, 24, dtype=np.float32).reshape(4, 6)
    scale = np.float32([0.01, 0.02, 0.5, 1.0])
    found = quantize(values, scale, 0, -127, 127)
    assert np.array_equal(found, -quantize(-values, scale, 0, -127, 127))
    assert found.min() >= -127
    assert np.abs(values[3] - found[3]).max() <= 0.5


class Branch(nn.Module):
    def forward(self, pixel_values: Tensor) -> Tensor:
        if pixel_values.sum() > 0:
            return pixel_values.flatten(1)
        return -pixel_values.flatten(1)


class Two(nn.Module):
    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        return pixel_values.flatten(1), pixel_values.mean(1)


class FixedBatch(nn.Module):
    def forward(self, pixel_values: Tensor) -> Tensor:
        return pixel_values.flatten(1) + torch.zeros(2, 1)


class NoBatch(nn.Module):
    def forward(self, pixel_values: Tensor) -> Tensor:
        return pixel_values.mean(0)


@pytest.mark.parametrize("module", [Branch(), Two(), FixedBatch(), NoBatch()], ids=lambda m: type(m).__name__)
def test_refuses_what_cannot_be_exported(module: nn.Module, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        export_onnx(module, SHAPE)
    assert caught.value.got
    assert caught.value.do
    assert capfd.readouterr() == ("", "")


def test_the_advice_on_a_fixed_batch_names_nothing_that_the_export_stage_does_not_have() -> None:
    with pytest.raises(UnsupportedModelError, match="must be the batch, of any size") as caught:
        export_onnx(NoBatch(), SHAPE)
    assert caught.value.do == "keep the batch size out of reshapes and constants: use x.shape[0] or -1"


def test_refuses_an_old_opset(tiny: nn.Module) -> None:
    with pytest.raises(UnsupportedModelError, match="18"):
        export_onnx(tiny, SHAPE, opset=17)


class OneQuantizer(nn.Module):
    def __init__(self, scale: float, hi: int) -> None:
        super().__init__()
        self.linear = nn.Linear(192, 4)
        self.register_buffer("scale", torch.tensor(scale))
        self.hi = hi

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = torch.ops.gpusq.fake_quantize(pixel_values.flatten(1), self.scale, -1, -self.hi - 1, self.hi)
        return self.linear(x)


def test_refuses_four_bits() -> None:
    with pytest.raises(UnsupportedModelError, match="INT8"):
        export_onnx(OneQuantizer(0.1, 7), SHAPE)


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
def test_refuses_a_scale_that_is_not_positive_and_finite(scale: float) -> None:
    with pytest.raises(NonFiniteError, match="scale"):
        export_onnx(OneQuantizer(scale, 127), SHAPE)


class AllTrue(nn.Module):
    def forward(self, pixel_values: Tensor) -> Tensor:
        flag = torch.ops.aten._is_all_true(pixel_values > -1e9)
        return pixel_values.flatten(1) * flag


def test_is_all_true_is_translated() -> None:
    model = export_onnx(AllTrue(), SHAPE)
    ones = torch.ones(2, *SHAPE)
    assert np.array_equal(run(model, ones), ones.flatten(1).numpy())
    assert not run(model, ones * -1e10).any()
