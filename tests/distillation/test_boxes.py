"""Box geometry."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpusq.distillation.boxes import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, generalized_iou, iou
from tests.distillation.box_samples import boxes

seeds = st.integers(0, 10_000)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_conversions_are_inverse(seed: int) -> None:
    some = boxes(5, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(box_xyxy_to_cxcywh(box_cxcywh_to_xyxy(some)), some)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_overlaps_are_symmetric_bounded_and_one_for_equal_boxes(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = (box_cxcywh_to_xyxy(boxes(6, generator)) for _ in range(2))
    giou, plain = generalized_iou(a[:, None], b[None]), iou(a[:, None], b[None])
    torch.testing.assert_close(giou, generalized_iou(b[:, None], a[None]).T)
    assert bool((giou <= plain + 1e-6).all() and (giou >= -1).all() and (plain >= 0).all())
    torch.testing.assert_close(generalized_iou(a, a), torch.ones(6), rtol=0, atol=1e-4)


def test_known_overlaps() -> None:
    a = torch.tensor([0.0, 0.0, 2.0, 2.0])
    half, apart = torch.tensor([1.0, 0.0, 3.0, 2.0]), torch.tensor([3.0, 0.0, 4.0, 2.0])
    torch.testing.assert_close(iou(a, half), torch.tensor(1 / 3))
    torch.testing.assert_close(generalized_iou(a, half), torch.tensor(1 / 3))  # the outer box is their union
    torch.testing.assert_close(generalized_iou(a, apart), torch.tensor(-0.25))  # 2 of the outer 8 are of neither
    assert float(iou(torch.zeros(4), torch.zeros(4))) == 0.0
