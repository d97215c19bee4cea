"""The detector of `make demo-detr`: a DETR decoder on the first six blocks of a pretrained ViT-S/14.

196 px, 196 tokens of 14 px, one query on each. Pretrained: the backbone, read from build/data/vit-s14-6 or the folder
that GPUSQ_VIT_S14 names (scripts/fetch_vit_backbone.py writes it). Fresh: everything after it. The demo's recipe keeps
the backbone frozen while the detector is trained; pruning and quantization-aware training move all weights. For gpusq
it is a model file like any user's: `--model scripts/aerial_detector.py:build`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Dinov2Config, Dinov2Model

from gpusq.models.attention import ATTENTION_NAME, register_attention
from gpusq.models.vit_detr import VitDetr, VitDetrConfig

LAYERS, IMAGE, PATCH, WIDTH = 6, 196, 14, 384
BACKBONE = Path("build/data/vit-s14-6")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """[B, 3, 196, 196] -> patch tokens [B, 196, 384] after the last block, without class token and last norm."""

    def __init__(self) -> None:
        super().__init__()
        config = Dinov2Config(
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=6,
            mlp_ratio=4,
            patch_size=PATCH,
            image_size=IMAGE,
            layer_norm_eps=1e-6,
            use_mask_token=False,
        )
        register_attention()  # so that quantizers reach the products of its attention
        self.vit = Dinov2Model._from_config(config, attn_implementation=ATTENTION_NAME)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x = self.vit.embeddings(pixel_values)
        for block in self.vit.encoder.layer:
            x = block(x)
            x = x[0] if isinstance(x, tuple) else x
        return x[:, 1:]


def build(pretrained: bool = True) -> tuple[nn.Module, dict[str, Any]]:
    """The detector and the facts that gpusq asks of a model file."""
    backbone = Backbone()
    if pretrained:
        backbone.vit.load_state_dict(weights(reads()[0]))
    config = VitDetrConfig(image=IMAGE, patch=PATCH, merge=1, width=192, heads=6, encoder=1, decoder=1)
    facts = {"input_shape": (3, IMAGE, IMAGE), "mean": MEAN, "std": STD, "classes": ["Tree"], "activation": "sigmoid"}
    return VitDetr(config, backbone, WIDTH), facts


def reads() -> list[Path]:
    """The files beside this one that the model depends on; gpusq makes another artifact when they change."""
    folder = Path(os.environ.get("GPUSQ_VIT_S14", BACKBONE))
    file = folder / "model.safetensors"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there; run: .venv/bin/python scripts/fetch_vit_backbone.py {folder}")
    return [file]


def weights(file: Path) -> dict[str, torch.Tensor]:
    """The backbone's tensors under the names that Dinov2Model gives them."""
    from safetensors.torch import load_file

    return {name.removeprefix("dinov2."): tensor for name, tensor in load_file(file).items()}
