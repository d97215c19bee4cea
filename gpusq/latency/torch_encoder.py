"""A plain pre-norm transformer encoder in torch, of the same operators as `encoder_workload` counts."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """[B, T, width] -> [B, T, width]: attention with separate projections, then a GELU MLP, each with a residual."""

    def __init__(self, width: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(width, mlp), nn.Linear(mlp, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (self._split(part(y)) for part in (self.q_proj, self.k_proj, self.v_proj))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # [B, H, T, D] -> [B, T, width]
        x = x + self.out_proj(mixed)
        hidden: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return hidden

    def _split(self, x: Tensor) -> Tensor:
        parted = x.reshape(*x.shape[:2], self.heads, -1)  # [B, T, width] -> [B, T, H, D]
        return parted.transpose(1, 2)


def make_encoder(layers: int, width: int, heads: int, mlp: int) -> nn.Module:
    """Blocks in a row: [B, T, width] -> [B, T, width]. width divisible by heads."""
    return nn.Sequential(*(Block(width, heads, mlp) for _ in range(layers)))
