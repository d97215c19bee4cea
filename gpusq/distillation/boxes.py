"""Box geometry. Boxes are (cx, cy, w, h) or (x0, y0, x1, y1), float, in the same unit on both sides."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-7  # keeps the overlap of boxes without area finite


def box_cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """[..., 4] centre and size -> [..., 4] corners."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def box_xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """[..., 4] corners -> [..., 4] centre and size."""
    first, last = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((first + last) / 2, last - first), dim=-1)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU in -1..1 of corner boxes [..., 4] that broadcast; 1 where they are equal and have an area.

    Source: Rezatofighi et al. 2019, arXiv:1902.09630.
    """
    overlap, union = _overlap_and_union(a, b)
    outer = _area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    return overlap / (union + EPSILON) - (outer - union) / (outer + EPSILON)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU in 0..1 of corner boxes [..., 4] that broadcast; 0 where both are without area."""
    overlap, union = _overlap_and_union(a, b)
    return overlap / (union + EPSILON)


def _overlap_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    overlap = _area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - overlap
    return overlap, union


def _area(first: Tensor, last: Tensor) -> Tensor:
    width, height = (last - first).clamp(min=0).unbind(-1)
    return width * height
