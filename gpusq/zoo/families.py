"""The families and the small model that stands for each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """name: as people write it. model: the specification of a small model with fresh weights.

    lively: its convolutions are drawn again so that signals survive them (see `gpusq.zoo.lively`). passes: over the
    drawn images with boxes, to train it. Detectors that choose their queries by score need it: the scores of one that
    has learned nothing are nearly equal, and rounding chooses; then no two runs agree, and no file can be judged.
    """

    name: str
    model: str
    lively: bool = False
    passes: float = 0.0


FAMILIES: tuple[Family, ...] = (
    Family("ViT", "new:vit-test"),
    Family("DeiT", "new:deit-test"),
    Family("Swin", "new:swin-test"),
    Family("DINOv2", "new:dinov2-test"),
    Family("DINOv3", "new:dinov3-mini"),
    Family("DETR", "new:detr-mini"),
    Family("Conditional DETR", "new:conditional-detr-mini"),
    Family("Deformable DETR", "new:deformable-detr-mini"),
    Family("RT-DETR", "new:rt-detr-mini", lively=True, passes=5),
    Family("RT-DETRv2", "new:rt-detr-v2-mini", lively=True, passes=15),
    Family("D-FINE", "new:d-fine-mini", lively=True, passes=5),
    Family("YOLOS", "new:yolos-mini"),
    Family("LW-DETR", "new:lw-detr-mini", passes=24),
    Family("RF-DETR", "new:rf-detr-mini", passes=40),
    Family("Mask2Former", "new:mask2former-mini"),
    Family("SegFormer", "new:segformer-mini"),
    Family("PoolFormer", "new:poolformer-mini"),
)
