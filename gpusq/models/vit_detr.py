"""A small detector that converges in minutes: a plain ViT encoder and a DETR decoder over a grid of anchor queries."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

PRIOR = 0.02  # share of queries with an object at the start: the bias of the class head (arXiv:1708.02002)
EPSILON = 1e-4  # keeps the logit of a coordinate finite


@dataclass(frozen=True)
class VitDetrConfig:
    """image: side in pixels. patch: side of a patch. merge: patches of one token, per side. classes: K.

    stem: width of a patch; width: of a token, divided by heads. encoder, decoder: number of blocks. ratio: hidden over
    outer width of the feed-forward part. anchor: side of the first box of each query, over the side of the image.
    copies: queries that the encoder's own answer gives each object while it is trained.
    """

    image: int = 200
    patch: int = 10
    merge: int = 2
    stem: int = 96
    width: int = 192
    heads: int = 6
    encoder: int = 4
    decoder: int = 2
    ratio: int = 4
    classes: int = 1
    anchor: float = 0.17
    copies: int = 5

    def plain(self) -> dict[str, Any]:
        """As plain JSON data."""
        return asdict(self)


class VitDetr(nn.Module):
    """pixel_values [B, 3, image, image] -> (logits [B, Q, K], boxes [B, Q, 4] cxcywh in 0..1), sigmoid scores.

    A query stands on each token and starts from it and from an anchor box there, so that it looks at its own place
    from the first step on; plain DETR spends most of its long training on learning that. Tokens are few and wide: at
    200 pixels 100 of 20 x 20 pixels, so that nine tenths of the work are products with weights, and two layers see
    each patch before it is a token. Built of torch's transformer layers, whose packed in-projection `canonicalise`
    takes apart. In training mode a third value follows: (logits, boxes, copies) of the encoder, then the pair of every
    decoder block but the last. Several queries learn each object in the encoder, since one of a hundred queries is too
    little to learn places from (hybrid matching, arXiv:2207.13080); the decoder keeps one of them. Ideas: two-stage
    Deformable DETR (arXiv:2010.04159), Anchor DETR (arXiv:2109.07107).
    """

    def __init__(self, config: VitDetrConfig, backbone: nn.Module | None = None, backbone_width: int = 0) -> None:
        """backbone: gives tokens [B, cells * cells, backbone_width] of the images instead of the stem here."""
        super().__init__()
        self.config, width = config, config.width
        self.cells = config.image // (config.patch * config.merge)
        self.embed = _stem(config) if backbone is None else _projected(backbone, backbone_width, width)
        self.positions = nn.Parameter(torch.randn(1, self.cells**2, width) * 0.02)
        self.encoder = nn.ModuleList(self._block(nn.TransformerEncoderLayer) for _ in range(config.encoder))
        self.encoder_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.query_positions = nn.Parameter(torch.randn(1, self.cells**2, width) * 0.02)
        self.decoder = nn.ModuleList(self._block(nn.TransformerDecoderLayer) for _ in range(config.decoder))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(config.decoder + 1))
        self.class_heads = nn.ModuleList(nn.Linear(width, config.classes) for _ in self.norms)
        self.box_heads = nn.ModuleList(_box_head(width) for _ in self.norms)
        self.anchors: Tensor
        self.register_buffer("anchors", _anchors(self.cells, config.anchor), persistent=False)
        self._start()

    def forward(self, pixel_values: Tensor) -> tuple[Any, ...]:
        """As in the class's text."""
        tokens = self.embed(pixel_values) + self.positions
        for block in self.encoder:
            tokens = block(tokens)
        tokens = self.encoder_norm(tokens)
        queries = self.query(tokens) + self.query_positions
        place = self.anchors
        found = [self._heads(0, queries, place)]
        for index, block in enumerate(self.decoder, start=1):
            place = _logit(found[-1][1].detach())
            queries = block(queries, tokens)
            found.append(self._heads(index, queries, place))
        if not self.training:
            return found[-1]
        return (*found[-1], ((*found[0], self.config.copies), *found[1:-1]))

    def _heads(self, index: int, queries: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norms[index](queries)
        return self.class_heads[index](x), (place + self.box_heads[index](x)).sigmoid()

    def _block(self, kind: Any) -> nn.Module:
        c = self.config
        block: nn.Module = kind(c.width, c.heads, c.ratio * c.width, 0.0, "gelu", batch_first=True, norm_first=True)
        return block

    def _start(self) -> None:
        for head in self.class_heads:
            nn.init.constant_(head.get_parameter("bias"), math.log(PRIOR / (1 - PRIOR)))
        for box in self.box_heads:
            nn.init.zeros_(box.get_parameter("2.weight"))
            nn.init.zeros_(box.get_parameter("2.bias"))


class _Tokens(nn.Module):
    """[B, C, h, w] -> [B, h * w, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


class _StemNorm(nn.LayerNorm):
    """Layer norm over the channels of [B, C, h, w]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def _stem(config: VitDetrConfig) -> nn.Sequential:
    """Patches, then merge x merge of them to a token; both become linear layers in canonical form."""
    return nn.Sequential(
        nn.Conv2d(3, config.stem, config.patch, stride=config.patch),
        nn.GELU(),
        _StemNorm(config.stem),
        nn.Conv2d(config.stem, config.width, config.merge, stride=config.merge),
        _Tokens(),
    )


def _projected(backbone: nn.Module, inner: int, width: int) -> nn.Sequential:
    return nn.Sequential(backbone, nn.LayerNorm(inner), nn.Linear(inner, width))


def _box_head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))


def _anchors(cells: int, side: float) -> Tensor:
    """Logits [1, cells * cells, 4] of square boxes at the centres of the cells, row by row."""
    centre = (torch.arange(cells) + 0.5) / cells
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    size = torch.full_like(x, side)
    return _logit(torch.stack((x, y, size, size), dim=-1).reshape(1, -1, 4))


def _logit(x: Tensor) -> Tensor:
    return torch.logit(x.clamp(EPSILON, 1 - EPSILON))
