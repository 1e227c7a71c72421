"""The feed-forward half of a transformer or ConvNeXt layer: two linear layers with a GELU between them."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.engines.lm.linear import BFloat16Linear, Int8Linear

Gelu = Literal["none", "tanh"]
"""The approximation of GELU, in torch's names."""

REACH = 4.0
TERMS = (
    2.25882743e-08,
    -1.58883023e-06,
    4.77639429e-05,
    -8.12187978e-04,
    8.76369337e-03,
    -6.45544172e-02,
    3.97870266e-01,
)
"""The odd polynomial in x, highest power first, that approximates the normal distribution function minus 1/2 up to `REACH`:
among those that reach 1/2 there, the one with the least maximum of x times the error (by linear programming)."""


def gelu_for_bytes(x: Tensor) -> Tensor:
    """GELU within 2e-4, in a third of the operations."""
    inside = x.clamp(-REACH, REACH)
    square = inside * inside
    total = TERMS[0] * square + TERMS[1]
    for term in TERMS[2:]:
        total = total * square + term
    return x * (inside * total + 0.5)


class FeedForward(nn.Module):
    """`down(gelu(up(x)))`.

    Between bfloat16 layers the hidden rows stay in bfloat16: the second product rounds them anyway, they are most of the
    memory traffic here, and a compiled step fuses the GELU with the product. Between int8 layers a compiled step uses the
    polynomial, whose error is below their rounding.
    """

    def __init__(self, up: nn.Module, down: nn.Module, gelu: Gelu = "none") -> None:
        super().__init__()
        self.up, self.down, self.gelu = up, down, gelu

    def forward(self, x: Tensor) -> Tensor:
        """(n, dim) float32 to (n, dim) float32."""
        hidden = self.up.rounded(x) if isinstance(self.up, BFloat16Linear) else self.up(x)
        made: Tensor = self.down(self._gelu(hidden))
        return made

    def _gelu(self, hidden: Tensor) -> Tensor:
        if self.gelu == "none" and isinstance(self.up, Int8Linear) and torch.compiler.is_compiling():
            return gelu_for_bytes(hidden)
        return F.gelu(hidden, approximate=self.gelu)
