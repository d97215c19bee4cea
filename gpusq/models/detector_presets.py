"""Configurations of detectors and of models with other heads, to start from fresh weights: `new:NAME?key=value`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpusq.errors import UnsupportedModelError
from gpusq.models.description import Task
from gpusq.models.detector import activation_of
from gpusq.models.fresh import fresh_other
from gpusq.models.heads import TENSOR_HEADS
from gpusq.models.huggingface import config_class, positive, seeded
from gpusq.models.source import IMAGENET_MEAN, IMAGENET_STD, Raw, Spec, option
from gpusq.models.vit_detr import VitDetr, VitDetrConfig

WIDTH, FEED, HEADS, LAYERS = 64, 128, 2, 2
"""Sizes of the mini presets: multiples of 32, so that 2:4 and INT8 fit every layer."""
STAGES = ("stage2", "stage3", "stage4")


@dataclass(frozen=True)
class OtherPreset:
    """architecture: class of transformers. config: (size, queries, classes) -> arguments of its configuration.

    multiple: what the size has to be divisible by. queries: 0 where the model has none.
    """

    family: str
    architecture: str
    config: Callable[[int, int, int], dict[str, Any]]
    size: int
    multiple: int
    queries: int = 0
    classes: int = 80
    task: Task = "detection"


def new_detector(spec: Spec, classes: int | None, seed: int) -> Raw:
    """A model of DETECTOR_PRESETS with fresh weights; options size, queries, classes. Raises UnsupportedModelError."""
    chosen = DETECTOR_PRESETS[spec.name]
    allowed = ("size", "queries", "classes") if chosen.queries else ("size", "classes")
    given = {key: positive(key, value) for key, value in option(spec, allowed).items()}
    size, queries = given.get("size", chosen.size), given.get("queries", chosen.queries)
    count = classes or given.get("classes", chosen.classes)
    if size % chosen.multiple:
        raise UnsupportedModelError(
            f"new:{spec.name}: size is a multiple of {chosen.multiple}", got=str(size), do="change the size"
        )
    if chosen.architecture == VitDetr.__name__:
        return _vit_detr(chosen, size, count, seed)
    config = config_class(chosen.family)(
        **chosen.config(size, queries, count), num_labels=count, architectures=[chosen.architecture]
    )
    module, plain = fresh_other(chosen.architecture, config, seed)
    raw = _raw(module, chosen.family, plain, size)
    raw.task = chosen.task
    if chosen.task == "detection":
        raw.activation, raw.classes = activation_of(chosen.family), tuple(str(i) for i in range(count))
    raw.outputs = next((names for head, names in TENSOR_HEADS.items() if chosen.architecture.endswith(head)), ())
    return raw


def _vit_detr(chosen: OtherPreset, size: int, classes: int, seed: int) -> Raw:
    config = VitDetrConfig(**chosen.config(size, 0, classes))
    with seeded(seed):
        module = VitDetr(config)
    raw = _raw(module, chosen.family, config.plain(), size)
    raw.task, raw.activation, raw.classes = "detection", "sigmoid", tuple(str(i) for i in range(classes))
    return raw


def _raw(module: Any, family: str, config: dict[str, Any], size: int) -> Raw:
    return Raw(module, "new", family, config, (3, size, size), IMAGENET_MEAN, IMAGENET_STD)


def _resnet(kind: str, out: tuple[str, ...], mini: bool) -> Any:
    """A ResNet backbone: of four small stages, or ResNet-50 (R50vd for the RT-DETR family)."""
    small = {"embedding_size": 32, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    return config_class(kind)(**(small if mini else {}), out_features=list(out))


def _detr(out: tuple[str, ...], mini: bool = True, **more: Any) -> Callable[[int, int, int], dict[str, Any]]:
    def config(size: int, queries: int, classes: int) -> dict[str, Any]:
        return {
            "backbone_config": _resnet("resnet", out, mini),
            "num_queries": queries,
            **(_transformer() if mini else {}),
            **more,
        }

    return config


def _rt_detr(mini: bool = True) -> Callable[[int, int, int], dict[str, Any]]:
    def config(size: int, queries: int, classes: int) -> dict[str, Any]:
        # Denoising queries need labels inside the forward pass, which no other part of this package gives.
        base = {"backbone_config": _resnet("rt_detr_resnet", STAGES, mini), "num_queries": queries, "num_denoising": 0}
        return base | (_RT_MINI if mini else {})

    return config


def _transformer() -> dict[str, Any]:
    parts = ("encoder", "decoder")
    sizes = {f"{p}_{key}": v for p in parts for key, v in (("layers", LAYERS), ("ffn_dim", FEED))}
    return sizes | {f"{p}_attention_heads": HEADS for p in parts} | {"d_model": WIDTH}


_RT_MINI: dict[str, Any] = {
    "encoder_hidden_dim": WIDTH,
    "encoder_ffn_dim": FEED,
    "encoder_attention_heads": HEADS,
    "d_model": WIDTH,
    "decoder_in_channels": [WIDTH] * 3,
    "encoder_in_channels": [64, 96, 128],
    "decoder_layers": LAYERS,
    "decoder_ffn_dim": FEED,
    "decoder_attention_heads": HEADS,
}
_VIT = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": FEED}


def _yolos(size: int, queries: int, classes: int) -> dict[str, Any]:
    return {**_VIT, "image_size": [size, size], "patch_size": 8, "num_detection_tokens": queries}


def _yolos_tiny(size: int, queries: int, classes: int) -> dict[str, Any]:
    sizes = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
    return {**sizes, "image_size": [size, size], "patch_size": 16, "num_detection_tokens": queries}


_GROUPED = {
    "d_model": WIDTH,
    "decoder_ffn_dim": FEED,
    "decoder_layers": LAYERS,
    "decoder_self_attention_heads": HEADS,
    "decoder_cross_attention_heads": HEADS,
    "c2f_num_blocks": 1,
    "group_detr": 1,
}


def _lw_detr(size: int, queries: int, classes: int) -> dict[str, Any]:
    backbone = config_class("lw_detr_vit")(
        hidden_size=WIDTH,
        num_hidden_layers=4,
        num_attention_heads=HEADS,
        image_size=size,
        pretrain_image_size=size,
        num_windows=4,
        window_block_indices=[0, 2],
        out_indices=[2, 4],
    )
    return {**_GROUPED, "backbone_config": backbone, "projector_scale_factors": [1.0], "num_queries": queries}


def _rf_detr(size: int, queries: int, classes: int) -> dict[str, Any]:
    backbone = config_class("rf_detr_dinov2")(
        hidden_size=WIDTH,
        num_hidden_layers=4,
        num_attention_heads=HEADS,
        mlp_ratio=2,
        image_size=size,
        patch_size=8,
        num_windows=2,
        out_indices=[2, 4],
    )
    return {**_GROUPED, "backbone_config": backbone, "num_queries": queries}


def _mask2former(size: int, queries: int, classes: int) -> dict[str, Any]:
    backbone = config_class("swin")(
        image_size=size,
        patch_size=4,
        embed_dim=32,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 4, 8],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    sizes = {"feature_size": WIDTH, "mask_feature_size": WIDTH, "hidden_dim": WIDTH, "encoder_feedforward_dim": FEED}
    depth = {"dim_feedforward": FEED, "num_attention_heads": HEADS, "encoder_layers": LAYERS, "decoder_layers": 3}
    return {**sizes, **depth, "backbone_config": backbone, "num_queries": queries}


def _segformer(size: int, queries: int, classes: int) -> dict[str, Any]:
    widths = {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3, 4]}
    return {**widths, "decoder_hidden_size": WIDTH, "image_size": size}


def _poolformer(size: int, queries: int, classes: int) -> dict[str, Any]:
    return {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1], "patch_sizes": [7, 3, 3, 3]}


def _dinov3(size: int, queries: int, classes: int) -> dict[str, Any]:
    return {**_VIT, "image_size": size, "patch_size": 8, "num_register_tokens": 4}


def _vit_detr_mini(size: int, queries: int, classes: int) -> dict[str, Any]:
    return {"image": size, "classes": classes}


DETECTOR_PRESETS: dict[str, OtherPreset] = {
    "vit-detr-mini": OtherPreset("vit-detr", "VitDetr", _vit_detr_mini, 200, 20, classes=1),
    "detr-mini": OtherPreset("detr", "DetrForObjectDetection", _detr(STAGES[-1:]), 128, 32, 12, 4),
    "conditional-detr-mini": OtherPreset(
        "conditional_detr", "ConditionalDetrForObjectDetection", _detr(STAGES[-1:]), 128, 32, 12, 4
    ),
    "deformable-detr-mini": OtherPreset(
        "deformable_detr", "DeformableDetrForObjectDetection", _detr(STAGES, num_feature_levels=4), 128, 32, 12, 4
    ),
    "rt-detr-mini": OtherPreset("rt_detr", "RTDetrForObjectDetection", _rt_detr(), 128, 32, 12, 4),
    "rt-detr-v2-mini": OtherPreset("rt_detr_v2", "RTDetrV2ForObjectDetection", _rt_detr(), 128, 32, 12, 4),
    "d-fine-mini": OtherPreset("d_fine", "DFineForObjectDetection", _rt_detr(), 128, 32, 12, 4),
    "yolos-mini": OtherPreset("yolos", "YolosForObjectDetection", _yolos, 64, 8, 12, 4),
    "lw-detr-mini": OtherPreset("lw_detr", "LwDetrForObjectDetection", _lw_detr, 128, 32, 12, 4),
    "rf-detr-mini": OtherPreset("rf_detr", "RfDetrForObjectDetection", _rf_detr, 128, 16, 12, 4),
    "mask2former-mini": OtherPreset(
        "mask2former", "Mask2FormerForUniversalSegmentation", _mask2former, 128, 32, 12, 4, "tensors"
    ),
    "segformer-mini": OtherPreset(
        "segformer", "SegformerForSemanticSegmentation", _segformer, 64, 32, classes=4, task="tensors"
    ),
    "dinov3-mini": OtherPreset("dinov3_vit", "DINOv3ViTModel", _dinov3, 64, 8, classes=4, task="tensors"),
    "poolformer-mini": OtherPreset(
        "poolformer", "PoolFormerForImageClassification", _poolformer, 64, 32, classes=4, task="classification"
    ),
    "detr-r50": OtherPreset("detr", "DetrForObjectDetection", _detr(STAGES[-1:], mini=False), 800, 32, 100, 91),
    "conditional-detr-r50": OtherPreset(
        "conditional_detr", "ConditionalDetrForObjectDetection", _detr(STAGES[-1:], mini=False), 800, 32, 300, 91
    ),
    "deformable-detr-r50": OtherPreset(
        "deformable_detr", "DeformableDetrForObjectDetection", _detr(STAGES, mini=False), 800, 32, 300, 91
    ),
    "rt-detr-r50": OtherPreset("rt_detr", "RTDetrForObjectDetection", _rt_detr(mini=False), 640, 32, 300),
    "rt-detr-v2-r50": OtherPreset("rt_detr_v2", "RTDetrV2ForObjectDetection", _rt_detr(mini=False), 640, 32, 300),
    "yolos-tiny": OtherPreset("yolos", "YolosForObjectDetection", _yolos_tiny, 512, 16, 100, 91),
}
