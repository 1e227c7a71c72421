"""A path that a model that samples must follow, so that values are compared and not what rounding made of a choice.

A rounding that falls the other way may change a sampled token, a duration or a frame that the model reads again, and all that
follows is then another speech. So the first run decides at each place, and whoever comes after follows it; what the choices
were made from is compared there, within a bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Values = NDArray[Any]
NEVER = -1e8
"""A smaller score belongs to what is ruled out."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was chosen at one place, and the scores (n,) that led to it."""

    choice: Values
    scores: Values


@dataclass(slots=True)
class Path:
    """The decisions so far, by the bytes of what tells a place from all others, such as its random number.

    Of `kept` decisions, the next one stands at every new place. `deviation` is the largest distance of scores from the first
    ones at their place, as a share of these (root mean square about their mean). `followed` counts them.
    """

    kept: Iterable[Decision] = ()
    decisions: dict[bytes, Decision] = field(default_factory=dict)
    deviation: float = 0.0
    followed: int = 0
    _latest: dict[bytes, Values] = field(default_factory=dict)
    _coming: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._coming = list(self.kept)

    def follow(self, places: Tensor | Sequence[bytes], choices: Tensor, scores: Tensor) -> Tensor:
        """The choices (batch, ...) that the rows make on this path, of their own choices and the scores (batch, n)."""
        keys = places if isinstance(places, Sequence) else [row.numpy().tobytes() for row in places]
        made = [
            self._row(*row) for row in zip(keys, choices.detach().numpy(), scores.detach().float().numpy(), strict=True)
        ]
        return torch.tensor(np.stack(made)).to(choices.dtype)

    def _row(self, place: bytes, choice: Values, scores: Values) -> Values:
        own = Decision(np.copy(choice), np.copy(scores))
        before = self.decisions.get(place) or self._first(place, own)
        self._latest[place] = own.scores
        if before is not own:
            self.followed += 1
            self.deviation = max(self.deviation, distance(own.scores, before.scores))
        return before.choice

    def _first(self, place: bytes, own: Decision) -> Decision:
        self.decisions[place] = self._coming.pop(0) if self._coming else own
        return self.decisions[place]

    @property
    def coming(self) -> Decision | None:
        """What stands at the next new place, if that is known."""
        return self._coming[0] if self._coming else None

    def own_scores(self) -> Values:
        """Of the latest run at every place, in half precision."""
        scores: Values = np.maximum(np.stack(list(self._latest.values())), -6e4).astype(np.float16)
        return scores

    def arrays(self) -> dict[str, Values]:
        """Everything decided, in order, in half precision where it is not whole."""
        choices = np.stack([decision.choice for decision in self.decisions.values()])
        scores = np.stack([decision.scores for decision in self.decisions.values()])
        small = choices.astype(np.float16 if choices.dtype == np.float32 else np.int16)
        return {"choices": small, "scores": np.maximum(scores, -6e4).astype(np.float16)}

    @classmethod
    def of(cls, arrays: Any) -> Path:
        """To follow what `arrays()` kept."""
        choices, scores = arrays["choices"], arrays["scores"].astype(np.float32)
        whole = choices.astype(np.float32 if choices.dtype == np.float16 else np.int64)
        return cls([Decision(*row) for row in zip(whole, scores, strict=True)])


def distance(scores: Values, others: Values) -> float:
    """How far apart, as a share of the spread of the others; what is ruled out does not count."""
    here = (others > NEVER) & (others > -5e4) & (scores > NEVER)
    difference, spread = (scores - others)[here], others[here] - others[here].mean()
    return float(np.linalg.norm(difference) / max(float(np.linalg.norm(spread)), 1e-9))
