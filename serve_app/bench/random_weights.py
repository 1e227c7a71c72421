"""Seeded random weights of any size, made tensor by tensor when they are asked for: speed does not depend on their values."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor

BLOCK = 1 << 20
ONES = ("norm.weight", "act.weight", "latent_scaling_factor")


class RandomWeights(Mapping[str, Tensor]):
    """Tensors by name and shape, in bfloat16. Matrices are small normal numbers, norms are ones, biases zeros."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], *, device: str = "cpu", seed: int = 0) -> None:
        self._shapes, self._device = shapes, device
        random = torch.Generator(device="cpu").manual_seed(seed)
        self._block = torch.randn(BLOCK, generator=random, device="cpu").to(device, torch.bfloat16)

    def __getitem__(self, name: str) -> Tensor:
        shape = self._shapes[name]
        if name.endswith(ONES):
            return torch.ones(shape, dtype=torch.bfloat16, device=self._device)
        if len(shape) < 2:
            return torch.zeros(shape, dtype=torch.bfloat16, device=self._device)
        count = int(torch.Size(shape).numel())
        first = zlib.crc32(name.encode()) % BLOCK
        repeats = -(-(first + count) // BLOCK)
        inputs = count // shape[0]
        numbers = self._block.repeat(repeats)[first : first + count]
        return numbers.mul_(inputs**-0.5).view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def tokenizer() -> Tokenizer:
    """Every four letters are the same token: as many as with the published vocabulary, about."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))  # noqa: S106 (no password)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(".{4}"), "isolated")
    return tokenizer
