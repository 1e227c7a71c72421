"""A path of choices that a sampling model is forced to take, so that tests compare values and not the effect of one rounding.

A different rounding may change a sampled token, a duration, or a frame that the model reads again, and everything after it
differs. So the first run decides at each place, and later runs take its choices; the test compares the scores that the
choices were made from, within a bound.
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
"""Smaller scores belong to forbidden choices."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The choice at one place, and the scores (n,) that led to it."""

    choice: Values
    scores: Values


@dataclass(slots=True)
class ForcedPath:
    """The decisions so far, by bytes that identify a place, such as its random number.

    New places take the next of the `kept` decisions. `deviation` is the largest distance of scores from the first ones at
    their place, as a share of the spread of these (root mean square around their mean). `followed` counts the choices that
    were taken over.
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
        """The choices (batch, ...) of the rows on this path, from their own choices and scores (batch, n)."""
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
        """The decision at the next new place, if it is known."""
        return self._coming[0] if self._coming else None

    def own_scores(self) -> Values:
        """The scores of the latest run at every place, in half precision."""
        scores: Values = np.maximum(np.stack(list(self._latest.values())), -6e4).astype(np.float16)
        return scores

    def arrays(self) -> dict[str, Values]:
        """All decisions in order, in half precision except for integers."""
        choices = np.stack([decision.choice for decision in self.decisions.values()])
        scores = np.stack([decision.scores for decision in self.decisions.values()])
        small = choices.astype(np.float16 if choices.dtype == np.float32 else np.int16)
        return {"choices": small, "scores": np.maximum(scores, -6e4).astype(np.float16)}

    @classmethod
    def of(cls, arrays: Any) -> ForcedPath:
        """A path from the result of `arrays`."""
        choices, scores = arrays["choices"], arrays["scores"].astype(np.float32)
        whole = choices.astype(np.float32 if choices.dtype == np.float16 else np.int64)
        return cls([Decision(*row) for row in zip(whole, scores, strict=True)])


def distance(scores: Values, others: Values) -> float:
    """The distance as a share of the spread of `others`; forbidden choices do not count."""
    here = (others > NEVER) & (others > -5e4) & (scores > NEVER)
    difference, spread = (scores - others)[here], others[here] - others[here].mean()
    return float(np.linalg.norm(difference) / max(float(np.linalg.norm(spread)), 1e-9))
