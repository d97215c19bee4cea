"""A detector in the layout of the original DETR: packed nn.MultiheadAttention, positions added to queries and keys.

Sizes of the transformer as published (256 wide, 8 heads, 100 queries) but for its depth and its feed-forward width; the
backbone is four strided convolutions. Fresh weights: what is compared is which weights a tool reaches.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

WIDTH, HEADS, FEED, QUERIES, LAYERS, SIDE = 256, 8, 512, 100, 2, 128


class EncoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(WIDTH, HEADS)
        self.linear1, self.linear2 = nn.Linear(WIDTH, FEED), nn.Linear(FEED, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        query = x + positions
        x = self.norm1(x + self.self_attn(query, query, x, need_weights=False)[0])
        return self.norm2(x + self.linear2(self.linear1(x).relu()))


class DecoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(WIDTH, HEADS)
        self.multihead_attn = nn.MultiheadAttention(WIDTH, HEADS)
        self.linear1, self.linear2 = nn.Linear(WIDTH, FEED), nn.Linear(FEED, WIDTH)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(WIDTH) for _ in range(3))

    def forward(self, x: Tensor, memory: Tensor, positions: Tensor, queries: Tensor) -> Tensor:
        query = x + queries
        x = self.norm1(x + self.self_attn(query, query, x, need_weights=False)[0])
        found = self.multihead_attn(x + queries, memory + positions, memory, need_weights=False)[0]
        x = self.norm2(x + found)
        return self.norm3(x + self.linear2(self.linear1(x).relu()))


class PackedDetr(nn.Module):
    """pixel_values [B, 3, 128, 128] -> (logits [B, 100, classes + 1], boxes [B, 100, 4])."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        widths = (3, 32, 64, 128, WIDTH)
        steps = [nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.ReLU()) for a, b in pairwise(widths)]
        self.backbone = nn.Sequential(*steps)
        self.positions = nn.Parameter(torch.randn((SIDE // 16) ** 2, 1, WIDTH))
        self.query_embed = nn.Embedding(QUERIES, WIDTH)
        self.encoder = nn.ModuleList(EncoderLayer() for _ in range(LAYERS))
        self.decoder = nn.ModuleList(DecoderLayer() for _ in range(LAYERS))
        self.class_embed, self.bbox_embed = nn.Linear(WIDTH, classes + 1), nn.Linear(WIDTH, 4)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.backbone(pixel_values).flatten(2).permute(2, 0, 1)  # sequence first, as the original has it
        queries = self.query_embed.weight.unsqueeze(1).expand(-1, pixel_values.shape[0], -1)
        for layer in self.encoder:
            memory = layer(memory, self.positions)
        x = torch.zeros_like(queries)
        for layer in self.decoder:
            x = layer(x, memory, self.positions, queries)
        return self.class_embed(x).transpose(0, 1), self.bbox_embed(x).sigmoid().transpose(0, 1)


def build(classes: int = 4) -> tuple[nn.Module, dict[str, object]]:
    """The model and what gpusq must know of it."""
    return PackedDetr(classes), {"input_shape": (3, SIDE, SIDE), "classes": classes, "activation": "softmax"}
