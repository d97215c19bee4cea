"""A small transformer with fake quantizers, dense and 2:4, exported once for the whole room."""

from __future__ import annotations

import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpusq.graph.export_onnx import export_onnx
from gpusq.quantization import fake_quantize as _registers_the_op  # noqa: F401

WIDTH, SIDE, PATCH, CLASSES = 16, 8, 4, 5
SHAPE = (3, SIDE, SIDE)


class Quantizer(nn.Module):
    """A fake quantizer with a fixed scale, 0-d, or 1-d along `axis`."""

    def __init__(self, scale: Tensor, axis: int, lo: int) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.axis, self.lo = axis, lo

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.gpusq.fake_quantize(x, self.scale, self.axis, self.lo, 127)


class QuantizedLinear(nn.Linear):
    """A Linear with an input and a weight quantizer; its weight is 2:4 along the input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.weight.data = (self.weight.data.view(-1, 4) * torch.tensor([1.0, 0.0, 0.0, 1.0])).view_as(self.weight)
        self.weight_quantizer = Quantizer(self.weight.detach().abs().amax(1) / 127, 0, -127)
        self.input_quantizer = Quantizer(torch.tensor(2.0**-5), -1, -128)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.input_quantizer(x), self.weight_quantizer(self.weight), self.bias)


class Block(nn.Module):
    """Pre-norm attention with one head and quantized operands, then a GELU MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps=1e-12), nn.LayerNorm(WIDTH, eps=1e-12)
        self.q, self.k, self.v, self.out = (QuantizedLinear(WIDTH, WIDTH) for _ in range(4))
        self.fc1, self.fc2 = QuantizedLinear(WIDTH, 32), QuantizedLinear(32, WIDTH)
        self.key_quantizer = Quantizer(torch.tensor(2.0**-6), -1, -128)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        scores = self.q(y) @ self.key_quantizer(self.k(y)).transpose(-1, -2) * WIDTH**-0.5
        x = x + self.out(torch.softmax(scores, -1) @ self.v(y))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Tiny(nn.Module):
    """[B, 3, 8, 8] -> [B, 5]: patches of 4 x 4, two blocks, mean, a float head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = QuantizedLinear(3 * PATCH**2, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, pixel_values: Tensor) -> Tensor:
        n = SIDE // PATCH
        x = pixel_values.reshape(-1, 3, n, PATCH, n, PATCH).permute(0, 2, 4, 1, 3, 5).reshape(-1, n * n, 3 * PATCH**2)
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    torch.manual_seed(0)
    return Tiny().eval()


@pytest.fixture(scope="session")
def _exported(tiny: Tiny) -> ir.Model:
    return export_onnx(tiny, SHAPE)


@pytest.fixture
def exported(_exported: ir.Model) -> ir.Model:
    """A copy that a test may damage."""
    return ir.from_proto(ir.to_proto(_exported))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(7, *SHAPE, generator=torch.Generator().manual_seed(1))
