"""The small detector of the demonstration."""

from __future__ import annotations

import pytest
import torch

from gpusq.distillation import detection_loss
from gpusq.distillation.boxes import box_cxcywh_to_xyxy, iou
from gpusq.models import gemm_layers, load_model, prunable, trace_workload
from gpusq.models.canonical import canonicalise
from gpusq.models.vit_detr import VitDetr, VitDetrConfig
from gpusq.reports import coverage_of
from gpusq.workload import coverage, transformer_part

TINY = VitDetrConfig(
    image=64, patch=8, merge=2, stem=32, width=32, heads=2, encoder=1, decoder=1, anchor=0.25, copies=2
)


def scenes(count: int, seed: int) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Dark noise with one to three bright squares of 16 pixels."""
    generator = torch.Generator().manual_seed(seed)
    images, targets = 0.2 * torch.randn(count, 3, 64, 64, generator=generator), []
    for image in images:
        corners = torch.randperm(9, generator=generator)[: int(torch.randint(1, 4, (1,), generator=generator))]
        boxes = []
        for place in corners.tolist():
            x, y = 4 + 20 * (place % 3), 4 + 20 * (place // 3)
            image[:, y : y + 16, x : x + 16] += 2.0
            boxes.append([(x + 8) / 64, (y + 8) / 64, 0.25, 0.25])
        targets.append((torch.zeros(len(boxes), dtype=torch.int64), torch.tensor(boxes)))
    return images, targets


def test_it_learns_squares_in_seconds() -> None:
    torch.manual_seed(0)
    model = canonicalise(VitDetr(TINY)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(60):
        images, targets = scenes(16, step)
        loss, _ = detection_loss(model(images), targets, "sigmoid")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, targets = scenes(16, 1000)
    with torch.no_grad():
        logits, boxes = model.eval()(images)
    found = 0
    for scores, places, (classes, truth) in zip(logits.sigmoid().amax(-1), boxes, targets, strict=True):
        best = scores.topk(len(classes)).indices
        overlap = iou(box_cxcywh_to_xyxy(places[best])[:, None], box_cxcywh_to_xyxy(truth)[None])
        found += int((overlap.amax(0) > 0.5).sum())
    assert found >= 0.9 * sum(len(classes) for classes, _ in targets)


def test_nine_tenths_of_its_transformer_can_be_sparse() -> None:
    model = load_model("new:vit-detr-mini")
    workload = trace_workload(model.module, model.description.input_shape)
    layers = tuple(x.pruned().quantized() if prunable(x) else x for x in gemm_layers(model.module, model.keep_dense))
    whole = transformer_part(workload, layers)
    assert whole.macs == workload.macs  # all of it is transformer
    assert coverage(whole, layers).sparse >= 0.9
    weights = transformer_part(workload, layers, products=False)
    assert 0.99 < coverage(weights, layers).sparse < 1


def test_the_last_layer_of_each_box_head_stays_dense() -> None:
    kept = load_model("new:vit-detr-mini").keep_dense
    assert {f"box_heads.{i}.2" for i in range(3)} <= set(kept)
    assert not {f"box_heads.{i}.0" for i in range(3)} & set(kept)


def test_a_backbone_may_stand_for_the_stem() -> None:
    class Backbone(torch.nn.Module):
        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.adaptive_avg_pool2d(pixel_values, 4).flatten(2).transpose(1, 2)

    model = VitDetr(TINY, Backbone(), 3).eval()
    with torch.no_grad():
        logits, boxes = model(torch.randn(2, 3, 64, 64))
    assert (logits.shape, boxes.shape) == ((2, 16, 1), (2, 16, 4))


def test_convolutions_and_memory_are_no_part_of_the_transformer() -> None:
    model = load_model("new:detr-mini")
    workload = trace_workload(model.module, model.description.input_shape)
    layers = gemm_layers(model.module, model.keep_dense)
    part = transformer_part(workload, layers)
    assert 0 < part.macs < workload.macs
    assert not any("backbone" in op.name for op in part.ops)
    assert {op.kind for op in part.ops} == {"gemm", "bmm"}


def test_a_report_tells_the_transformer_behind_a_convolutional_backbone() -> None:
    model = load_model("new:detr-mini")
    workload = trace_workload(model.module, model.description.input_shape)
    layers = gemm_layers(model.module, model.keep_dense)
    pruned = tuple(x.pruned().quantized() if x.kind == "linear" and prunable(x) else x for x in layers)
    found = coverage_of(workload, pruned)
    assert found.transformer is not None
    assert found.transformer.share == pytest.approx(transformer_part(workload, layers).macs / workload.macs)
    assert found.transformer.sparse > found.sparse
    assert found.transformer.sparse > 0.8
