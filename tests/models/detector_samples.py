"""Small detectors of transformers beside what this package makes of them, and one in the layout of the first DETR."""

from __future__ import annotations

import copy
from functools import cache

import torch
from torch import Tensor, nn

from gpusq.models import LoadedModel, load_model
from gpusq.models.detector_presets import DETECTOR_PRESETS, new_detector
from gpusq.models.source import parse_spec

FAMILIES = tuple(
    name for name, preset in DETECTOR_PRESETS.items() if name.endswith("mini") and preset.task == "detection"
)
FROM_TRANSFORMERS = tuple(name for name in FAMILIES if name != "vit-detr-mini")


@cache
def loaded(name: str) -> LoadedModel:
    """The canonical model of a preset, built once; not to be changed by a test."""
    return load_model(f"new:{name}")


def original(name: str) -> nn.Module:
    """The same weights as the library's own module, with its own attention."""
    module = copy.deepcopy(new_detector(parse_spec(f"new:{name}"), None, 0).module).eval()
    module.set_attn_implementation("eager")  # type: ignore[operator]
    return module


def pictures(model: LoadedModel, batch: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(batch, *model.description.input_shape, generator=torch.Generator().manual_seed(seed))


PACKED_SOURCE = '''
"""A detector in the layout of the first DETR, written for tests: packed attention, positions added to q and k."""

import torch
from torch import nn


class Encoder(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads)
        self.linear1, self.linear2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x, positions, padding):
        q = k = x + positions
        x = self.norm1(x + self.self_attn(q, k, value=x, key_padding_mask=padding)[0])
        return self.norm2(x + self.linear2(self.linear1(x).relu()))


class Decoder(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads)
        self.multihead_attn = nn.MultiheadAttention(width, heads)
        self.linear1, self.linear2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, x, memory, positions, queries, padding, mask):
        q = k = x + queries
        x = self.norms[0](x + self.self_attn(q, k, value=x, attn_mask=mask)[0])
        found = self.multihead_attn(x + queries, memory + positions, value=memory, key_padding_mask=padding)[0]
        x = self.norms[1](x + found)
        return self.norms[2](x + self.linear2(self.linear1(x).relu()))


class Packed(nn.Module):
    """Sequence first, as nn.MultiheadAttention is by default; the last two tokens are padding, queries see a band."""

    input_shape = (3, 32, 32)

    def __init__(self, classes, width=32, heads=4, count=6):
        super().__init__()
        self.input_proj = nn.Conv2d(3, width, 8, stride=8)
        self.positions = nn.Parameter(torch.randn(16, 1, width))
        self.query_embed = nn.Embedding(count, width)
        self.encoder = nn.ModuleList(Encoder(width, heads) for _ in range(2))
        self.decoder = nn.ModuleList(Decoder(width, heads) for _ in range(2))
        self.class_embed, self.bbox_embed = nn.Linear(width, classes + 1), nn.Linear(width, 4)

    def forward(self, images):
        memory = self.input_proj(images).flatten(2).permute(2, 0, 1)
        padding = torch.zeros(len(images), 16, dtype=torch.bool, device=images.device)
        padding[:, -2:] = True
        queries = self.query_embed.weight.unsqueeze(1).repeat(1, len(images), 1)
        place = torch.arange(len(queries), device=images.device)
        mask = (place[:, None] - place[None]).abs() > 3
        for layer in self.encoder:
            memory = layer(memory, self.positions, padding)
        x, pairs = torch.zeros_like(queries), []
        for layer in self.decoder:
            x = layer(x, memory, self.positions, queries, padding, mask)
            pairs.append((self.class_embed(x).transpose(0, 1), self.bbox_embed(x).sigmoid().transpose(0, 1)))
        more = [{"pred_logits": a, "pred_boxes": b} for a, b in pairs[:-1]]
        return {"pred_logits": pairs[-1][0], "pred_boxes": pairs[-1][1], "aux_outputs": more}


def build(classes=3):
    return Packed(classes), {"input_shape": (3, 32, 32), "classes": ["car", "dog", "tree"][:classes]}
'''
