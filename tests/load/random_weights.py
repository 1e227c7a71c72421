"""Seeded random weights of any size, made tensor by tensor on access: speed does not depend on their values."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 1 << 20
ONES = ("norm.weight", "act.weight", "scaling_factor", "running_var")
FILTERS = ("mel_scale.fb",)
SCALES = ("gamma", "_scale.scale")
LETTERS = 4
"""Of a text that are one token: about as many as with a published vocabulary."""


class RandomWeights(Mapping[str, Tensor]):
    """Tensors by name and shape. Matrices are small normal numbers, norms are ones, biases zeros, windows are windows.

    A layer's own scale (`gamma`) is `scale`: 0 as at the start of training, where the layer adds nothing to its input.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        device: str = "cpu",
        seed: int = 0,
        dtype: torch.dtype = torch.bfloat16,
        scale: float = 0.0,
    ) -> None:
        self._shapes, self._device, self._dtype, self._scale = shapes, device, dtype, scale
        random = torch.Generator(device="cpu").manual_seed(seed)
        self._block = torch.randn(BLOCK, generator=random, device="cpu").to(dtype)

    def __getitem__(self, name: str) -> Tensor:
        shape = self._shapes[name]
        if name.endswith(ONES):
            return torch.ones(shape, dtype=self._dtype, device=self._device)
        if name.endswith("window"):
            return torch.hann_window(*shape, dtype=self._dtype, device=self._device)
        if len(shape) < 2:
            scale = self._scale if name.endswith(SCALES) else 0.0
            return torch.full(shape, scale, dtype=self._dtype, device=self._device)
        count = int(torch.Size(shape).numel())
        first = zlib.crc32(name.encode()) % BLOCK
        repeats = -(-(first + count) // BLOCK)
        inputs = count // shape[0]
        numbers = self._block.repeat(repeats)[first : first + count]
        made = numbers.mul_(inputs**-0.5).view(shape).to(self._device)
        return made.abs_() if name.endswith(FILTERS) else made

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


@dataclass(frozen=True, slots=True)
class LetterEncoding:
    """Token numbers of a text."""

    ids: list[int]


class LetterTokenizer:
    """Stands for a model's tokenizer where no vocabulary is: every four letters are the same token."""

    def encode(self, text: str, *, add_special_tokens: bool) -> LetterEncoding:
        """Token 0 for every four letters."""
        return LetterEncoding([0] * -(-len(text) // LETTERS))
