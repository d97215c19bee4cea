"""Simplifications of detectors for one image size: each computes the same."""

from __future__ import annotations

import copy

import torch
from torch import nn
from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d

from gpusq.models.fixed_form import ConstantPositions, fix_form, fold_frozen_norms
from tests.models.detector_samples import loaded, original


class Stage(nn.Module):
    """As a backbone of transformers holds its convolutions."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 8, 3, padding=1, bias=bias)
        self.normalization = DetrFrozenBatchNorm2d(8)
        with torch.no_grad():
            for buffer in self.normalization.buffers():
                buffer.copy_(0.5 + torch.rand(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.normalization(self.convolution(x)).relu()
        return y


def test_folded_norms_compute_the_same() -> None:
    torch.manual_seed(0)
    for bias in (True, False):
        stage = Stage(bias)
        folded = copy.deepcopy(stage)
        assert fold_frozen_norms(folded) == 1
        x = torch.randn(2, 4, 5, 5)
        torch.testing.assert_close(folded(x), stage(x), rtol=1e-5, atol=1e-5)
        assert isinstance(folded.normalization, nn.Identity)


def test_a_detector_with_trained_norms_computes_the_same_in_fixed_form() -> None:
    module = original("detr-mini")
    with torch.no_grad():
        for part in module.modules():
            if type(part).__name__.endswith("FrozenBatchNorm2d"):
                for buffer in part.buffers():
                    buffer.copy_(0.5 + torch.rand(buffer.shape))
    fixed = fix_form(copy.deepcopy(module), (3, 128, 128))
    x = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        a, b = module(x), fixed(x)
    torch.testing.assert_close(b.logits, a.logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(b.pred_boxes, a.pred_boxes, rtol=0, atol=1e-5)
    assert not any("FrozenBatchNorm2d" in type(m).__name__ for m in fixed.modules())


def test_everything_is_trainable_and_positions_are_no_tensors_of_the_model() -> None:
    module = loaded("detr-mini").module
    assert all(p.requires_grad for p in module.parameters())
    assert any(isinstance(m, ConstantPositions) for m in module.modules())
    assert not any("at_4x4" in name for name in module.state_dict())


def test_no_mask_is_part_of_the_exported_attention() -> None:
    """What is left of the masks in a deformable detector are constants of batch 1."""
    model = loaded("deformable-detr-mini")
    program = torch.export.export(model.module, (torch.zeros(2, *model.description.input_shape),))
    kinds = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert not any("masked_fill" in kind or "where" in kind for kind in kinds)
    assert sum("grid_sampler" in kind for kind in kinds) == 16  # four layers of four levels each
