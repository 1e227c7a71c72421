"""How a voice feels: eight emotions with a strength each, written in words, mixed into the clip's own."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from deployments.errors import fail

NAMES = ("happy", "angry", "sad", "afraid", "disgusted", "melancholic", "surprised", "calm")
USUAL = 0.6
MOST = 0.8
"""All strengths together: what is left of 1 is the clip's own emotion, without which a voice is not itself any more."""

_NAMED = re.compile(rf"\b({'|'.join(NAMES)})\b(?:[\s:=]+(\d*\.?\d+))?", re.IGNORECASE)


def parse(text: str) -> tuple[float, ...] | None:
    """The strengths of `NAMES` in such words as "sad 0.4, calm 0.2"; an emotion without a number has 0.6. None for no text.

    Raises `MotetError` (invalid) for words that name none, or more than 0.8 of all together.
    """
    if not text.strip():
        return None
    found = {name.lower(): float(strength) if strength else USUAL for name, strength in _NAMED.findall(text)}
    if not found:
        raise fail(
            "invalid",
            f"No emotion is named in {text[:60]!r}.",
            f'Write such as "sad 0.4, calm 0.2". Emotions: {", ".join(NAMES)}.',
            param="instructions",
        )
    if sum(found.values()) > MOST + 1e-6:
        raise fail(
            "invalid",
            f"The emotions come to {sum(found.values()):.2g}.",
            f"Keep them at {MOST} or less together.",
            param="instructions",
        )
    return tuple(found.get(name, 0.0) for name in NAMES)


class EmotionTable:
    """The model's examples of each emotion: of several speakers, with the speaker's style."""

    def __init__(self, emotions: Tensor, speakers: Tensor, counts: Sequence[int]) -> None:
        """`emotions` (n, dim) and `speakers` (n, 192): `counts` of the first emotion, of the second, and so on."""
        self._examples = list(zip(emotions.split(list(counts)), speakers.split(list(counts)), strict=True))

    def mixed(self, own: Tensor, style: Tensor, strengths: Sequence[float]) -> Tensor:
        """(dim,) the clip's `own` emotion with others', each as the example whose speaker is most like the clip's."""
        nearest = [
            emotions[F.cosine_similarity(style[None], speakers, dim=1).argmax()]
            for emotions, speakers in self._examples
        ]
        weights = torch.tensor(list(strengths))
        mixed: Tensor = weights @ torch.stack(nearest) + (1 - weights.sum()) * own
        return mixed
