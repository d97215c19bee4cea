"""Detectors become ONNX files with two named outputs, a dynamic batch and no operator that an engine gets wrong."""

from __future__ import annotations

import importlib.util
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from gpusq.engines.tensorrt_rtx import check_build
from gpusq.errors import UnsupportedModelError
from gpusq.graph.box_parity import found_of, match_detections
from gpusq.graph.export_onnx import export_onnx
from gpusq.graph.fp16 import to_fp16
from gpusq.graph.lint import check_lint, lint_tensorrt
from gpusq.graph.model_file import model_bytes
from gpusq.graph.signature import signature
from gpusq.models import LoadedModel, load_model
from gpusq.zoo.lively import write_lively

OUTPUTS = ("logits", "boxes")
LIVELY = ("rt-detr-mini", "rt-detr-v2-mini", "d-fine-mini")
RTX = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="needs the rtx extra: pip install 'gpusq[rtx]'"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@cache
def loaded(name: str, folder: Path) -> LoadedModel:
    return load_model(write_lively(f"new:{name}", folder / name) if name in LIVELY else f"new:{name}")


@cache
def exported(name: str, folder: Path) -> ir.Model:
    model = loaded(name, folder)
    return export_onnx(model.module, model.description.input_shape, output_names=OUTPUTS, sampler="gather")


def images(model: LoadedModel, batch: int) -> Tensor:
    return torch.randn(batch, *model.description.input_shape, generator=torch.Generator().manual_seed(1))


def run(model: ir.Model, pixels: Tensor) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model_bytes(model), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"pixel_values": pixels.numpy()}), strict=True))


def torch_outputs(model: LoadedModel, pixels: Tensor) -> dict[str, np.ndarray]:
    with torch.no_grad():
        return {name: x.numpy() for name, x in zip(OUTPUTS, model.module(pixels), strict=True)}


def same_boxes(name: str, folder: Path, form: ir.Model, least: float, most: float) -> None:
    model = loaded(name, folder)
    pixels = images(model, 3)
    found = [
        found_of(outputs["logits"], outputs["boxes"], model.description.activation)
        for outputs in (torch_outputs(model, pixels), run(form, pixels))
    ]
    parity = match_detections(*found, 0.9)
    assert parity.share >= least
    assert parity.score <= most


@pytest.mark.parametrize("name", ["detr-mini", "yolos-mini"])
def test_a_plain_detector_equals_torch_at_any_batch(name: str, folder: Path) -> None:
    model = loaded(name, folder)
    for batch in (1, 3):
        pixels = images(model, batch)
        found, expected = run(exported(name, folder), pixels), torch_outputs(model, pixels)
        assert all(np.abs(found[key] - expected[key]).max() <= 1e-4 for key in OUTPUTS)


@pytest.mark.parametrize("name", ["detr-mini", "yolos-mini"])
def test_the_border_has_both_outputs_by_name(name: str, folder: Path) -> None:
    border = signature(exported(name, folder))
    description = loaded(name, folder).description
    assert [(o["name"], o["shape"][0], o["shape"][2]) for o in border["outputs"]][1] == ("boxes", "batch", 4)
    assert [o["name"] for o in border["outputs"]] == list(OUTPUTS)
    assert border["inputs"][0]["shape"] == ["batch", *description.input_shape]
    assert signature(to_fp16(exported(name, folder))) == border


@pytest.mark.slow
@pytest.mark.parametrize("size", [96, 128])
def test_deformable_detr_with_gathers_equals_torch(size: int) -> None:
    model = load_model(f"new:deformable-detr-mini?size={size}")
    form = export_onnx(model.module, (3, size, size), output_names=OUTPUTS, sampler="gather")
    assert not {"GridSample", "NonMaxSuppression"} & {node.op_type for node in form.graph}
    for batch in (1, 3):
        pixels = images(model, batch)
        found, expected = run(form, pixels), torch_outputs(model, pixels)
        assert all(np.abs(found[key] - expected[key]).max() <= 1e-4 for key in OUTPUTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rt-detr-v2-mini", "d-fine-mini"])
def test_selecting_detectors_find_the_same_boxes(name: str, folder: Path) -> None:
    form = exported(name, folder)
    count = Counter(node.op_type for node in form.graph)
    assert count["TopK"] >= 1
    assert not {"NonMaxSuppression", "GridSample", "If", "Loop"} & set(count)
    check_lint(lint_tensorrt(form))
    same_boxes(name, folder, form, 0.99, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["detr-mini", "deformable-detr-mini", "d-fine-mini"])
def test_fp16_finds_the_same_boxes(name: str, folder: Path) -> None:
    half = to_fp16(exported(name, folder))
    check_lint(lint_tensorrt(half))
    same_boxes(name, folder, half, 0.95, 0.01)
    boxes = next(output for output in half.graph.outputs if output.name == "boxes")
    assert boxes.producer().op_type != "Cast"  # computed in float32 up to the border


@RTX
@pytest.mark.slow
def test_deformable_detr_builds_for_both_gpus(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(model_bytes(to_fp16(exported("deformable-detr-mini", folder))))
    shape = loaded("deformable-detr-mini", folder).description.input_shape
    checks = check_build(
        tmp_path / "m.onnx",
        ("8.0", "8.6"),
        {"pixel_values": tuple((n, *shape) for n in (1, 2, 8))},  # type: ignore[dict-item]
    )
    assert [(check.ok, check.errors) for check in checks] == [(True, ()), (True, ())]


class Sampled(nn.Module):
    """A GridSample alone."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        grid = pixel_values[:, 1:3, :4, :4].permute(0, 2, 3, 1)
        return nn.functional.grid_sample(pixel_values[:, :1], grid, align_corners=False)


@RTX
@pytest.mark.parametrize(("opset", "mode"), [(18, "bilinear"), (19, "bilinear"), (21, "linear")])
def test_a_kept_grid_sample_builds_under_both_of_its_names(opset: int, mode: str, tmp_path: Path) -> None:
    """The operator's mode was renamed in opset 20; both are taken, in float32 and with a float32 grid in FP16."""
    form = export_onnx(Sampled(), (3, 8, 8), opset=opset)
    assert [n.attributes["mode"].as_string() for n in form.graph if n.op_type == "GridSample"] == [mode]
    for index, one in enumerate([form, to_fp16(form)]):
        path = tmp_path / f"{index}.onnx"
        path.write_bytes(model_bytes(one))
        (check,) = check_build(path, ("8.0",), {"pixel_values": ((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))})
        assert check.ok, check.errors


class LenBatch(nn.Module):
    """Takes its batch with len(), as the detectors of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.ones(1, 3, 4))

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        batch = len(pixel_values)
        return self.query.tile([batch, 1, 1]) * pixel_values.mean((1, 2, 3))[:, None, None], pixel_values.flatten(1)


def test_len_does_not_freeze_the_batch() -> None:
    module = LenBatch()
    form = export_onnx(module, (3, 4, 4), output_names=("queries", "flat"))
    for batch in (1, 5):
        pixels = torch.rand(batch, 3, 4, 4)
        expected = module(pixels)[0].detach().numpy()
        assert np.allclose(run(form, pixels)["queries"], expected, atol=1e-6)
    assert "len" not in globals()  # the file's own namespace is as it was


class OneSize(nn.Module):
    """A batch of 2 and no other."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        return pixel_values.reshape(2, 48) + torch.zeros(2, 1)


def test_a_model_of_one_batch_size_is_refused_with_what_can_be_done_in_its_forward() -> None:
    with pytest.raises(UnsupportedModelError, match="batch") as refused:
        export_onnx(OneSize(), (3, 4, 4))
    assert "use x.shape[0] or -1" in refused.value.do

    class AnySize(OneSize):
        def forward(self, pixel_values: Tensor) -> Tensor:
            return pixel_values.reshape(pixel_values.shape[0], 48) + torch.zeros(1, 1)

    form = export_onnx(AnySize(), (3, 4, 4))
    assert signature(form)["outputs"] == [{"name": "logits", "dtype": "float32", "shape": ["batch", 48]}]


def test_no_batch_can_be_asked_for_that_no_stage_could_pass_on() -> None:
    with pytest.raises(TypeError, match="batch"):
        export_onnx(OneSize(), (3, 4, 4), batch=2)  # type: ignore[call-arg]


class Normed(nn.Module):
    """A convolution with a batch norm that has statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)
        self.norm.running_mean, self.norm.running_var = torch.rand(8), torch.rand(8) + 1

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.norm(self.conv(pixel_values)).flatten(1)


def test_the_weights_of_a_normed_convolution_stay_the_models() -> None:
    module = Normed().eval()
    form = export_onnx(module, (4, 8, 8))
    assert np.array_equal(
        form.graph.initializers["conv.weight"].const_value.numpy(), module.conv.weight.detach().numpy()
    )
    assert Counter(node.op_type for node in form.graph)["BatchNormalization"] == 1
    pixels = torch.rand(2, 4, 8, 8)
    assert np.abs(run(form, pixels)["logits"] - module(pixels).detach().numpy()).max() <= 1e-5


class Masked(nn.Module):
    """A mask made of float32's smallest number, as transformers makes it."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        flat = pixel_values.flatten(1)
        masked = torch.where(flat > 0.5, flat, torch.finfo(torch.float32).min)
        return torch.softmax(masked, dim=-1)


def test_fp16_knows_the_smallest_number_of_a_mask() -> None:
    half = to_fp16(export_onnx(Masked(), (3, 4, 4)))
    pixels = torch.rand(2, 3, 4, 4)
    found = run(half, pixels)["logits"]
    assert np.isfinite(found).all()
    assert np.abs(found - Masked()(pixels).numpy()).max() <= 1e-3


class Angles(nn.Module):
    """Sines of large angles, which FP16 does not tell apart."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        return torch.sin(pixel_values.flatten(1) * 1000.0)


def test_fp16_keeps_angles_in_float32() -> None:
    pixels = torch.rand(2, 3, 4, 4)
    found = run(to_fp16(export_onnx(Angles(), (3, 4, 4))), pixels)["logits"]
    halves = pixels.half().float()
    assert np.abs(found - Angles()(pixels).numpy()).max() <= 1e-3
    assert np.abs(Angles()(halves).numpy() - Angles()(pixels).numpy()).max() > 1e-2  # what FP16 would give


class Selected(nn.Module):
    """The two best of many places, whose scores FP16 would round to one number."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(4, 1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        rows = pixel_values.flatten(1).reshape(-1, 12, 4)
        return torch.topk(self.score(rows).squeeze(-1) + 1000.0, 2).values - 1000.0


def test_fp16_selects_by_float32_scores() -> None:
    module = Selected().eval()
    half = to_fp16(export_onnx(module, (3, 4, 4)))
    kinds = {node.op_type: node.outputs[0].dtype for node in half.graph if node.op_type in ("TopK", "Gemm", "MatMul")}
    assert kinds
    assert set(kinds.values()) == {ir.DataType.FLOAT}
    pixels = torch.rand(2, 3, 4, 4)
    with torch.no_grad():
        expected = module(pixels).numpy()
    assert np.abs(run(half, pixels)["logits"] - expected).max() <= 2e-3
    assert np.abs(np.float16(expected + 1000) - 1000.0 - expected).max() > 2e-3  # what FP16 would give
