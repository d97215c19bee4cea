"""Named places between operators that a placement policy can fill; empty, they cost nothing and export as nothing."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn


class QuantPoint(nn.Module):
    """A place for a quantizer on an activation that no layer owns, such as q, k, p and v of an attention product.

    `quantizer` is nn.Identity until a placement policy fills it. Shapes pass through unchanged. A point has neither
    parameters nor buffers of its own, so that models with and without points share their tensor names.
    """

    quantizer: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.quantizer = nn.Identity()

    @property
    def filled(self) -> bool:
        """Whether a quantizer sits here."""
        return not isinstance(self.quantizer, nn.Identity)

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape; the same shape, quantized where the point is filled."""
        return cast(Tensor, self.quantizer(x))
