"""The emotion of a voice: eight emotions with a strength each, parsed from words, and mixed with the clip's own emotion."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

NAMES = ("happy", "angry", "sad", "afraid", "disgusted", "melancholic", "surprised", "calm")
USUAL = 0.6
MOST = 0.8
"""Upper bound for the sum of all strengths. The remainder up to 1 is the weight of the clip's own emotion; if that is less
than 0.2, the voice is no longer recognisable."""

_PART = re.compile(
    rf"""(?P<negation> \b(?:no|not|never|nor|neither|without|avoid)\b | n['’]t\b )
    | (?P<end> [.,;:!?\n] | \b(?:and|but)\b )
    | \b(?P<name>{"|".join(NAMES)})\b (?: [\s:=]* (?P<strength>[-−]?(?:\d+(?:[.,]\d+)?|\.\d+)) (?P<percent>\s*%)? )?""",
    re.IGNORECASE | re.VERBOSE,
)


def parse(text: str) -> tuple[float, ...] | None:
    """The strengths of `NAMES` from words such as "sad 0.4, calm 0.2", or None if no emotion is named.

    An emotion without a number has 0.6; a negated one, or one below 0, has 0; the last mention of an emotion counts.
    Strengths that sum to more than 0.8 are scaled down to 0.8. All other words are ignored.
    """
    found, negated = dict[str, float](), False
    for part in _PART.finditer(text):
        if part["name"]:
            found[part["name"].lower()] = 0.0 if negated else _strength(part)
        negated = part["negation"] is not None or (negated and part["end"] is None)
    if not found:
        return None
    scale = MOST / max(sum(found.values()), MOST)
    return tuple(scale * found.get(name, 0.0) for name in NAMES)


def _strength(part: re.Match[str]) -> float:
    if part["strength"] is None:
        return USUAL
    number = float(part["strength"].replace(",", ".").replace("−", "-"))
    return min(max(number / 100 if part["percent"] else number, 0.0), 1.0)


class EmotionTable:
    """The model's examples of each emotion, of several speakers, with each speaker's style."""

    def __init__(self, emotions: Tensor, speakers: Tensor, counts: Sequence[int]) -> None:
        """`emotions` (n, dim) and `speakers` (n, 192): the first `counts[0]` rows belong to the first emotion, and so on."""
        self._examples = list(zip(emotions.split(list(counts)), speakers.split(list(counts)), strict=True))

    def mixed(self, own: Tensor, style: Tensor, strengths: Sequence[float]) -> Tensor:
        """(dim,): the clip's `own` emotion mixed with others. Each emotion's example is that of the speaker nearest to the
        clip's."""
        nearest = [
            emotions[F.cosine_similarity(style[None], speakers, dim=1).argmax()]
            for emotions, speakers in self._examples
        ]
        weights = torch.tensor(list(strengths))
        mixed: Tensor = weights @ torch.stack(nearest) + (1 - weights.sum()) * own
        return mixed
