"""The diarization error rate, as NIST's `md-eval` defines it (Rich Transcription Evaluation, 2009)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from deployments.tasks.diarization import SpeakerTurn

COLLAR_S = 0.25
"""Time on both sides of the start and the end of each true turn that is not scored."""


@dataclass(frozen=True, slots=True)
class DiarizationError:
    """Scored seconds of speech, and of the errors in them. Speech of two speakers at once counts twice."""

    speech_s: float
    missed_s: float
    false_s: float
    confused_s: float

    @property
    def rate(self) -> float:
        """The share of the speech that is missed, invented or given to another speaker. Above 1 if much is invented."""
        return (self.missed_s + self.false_s + self.confused_s) / self.speech_s if self.speech_s else float("nan")


def diarization_error(
    truth: Sequence[SpeakerTurn], found: Sequence[SpeakerTurn], collar_s: float = COLLAR_S
) -> DiarizationError:
    """Compares turns. Each found speaker stands for at most one true speaker, so that the most time agrees."""
    pieces = _pieces(truth, found, collar_s)
    names = _matching(pieces)
    speech = missed = false = confused = 0.0
    for seconds, true, guessed in pieces:
        right = len(true & {names.get(name) for name in guessed})
        speech += seconds * len(true)
        missed += seconds * max(0, len(true) - len(guessed))
        false += seconds * max(0, len(guessed) - len(true))
        confused += seconds * (min(len(true), len(guessed)) - right)
    return DiarizationError(speech, missed, false, confused)


_Piece = tuple[float, set[str], set[str]]
"""Seconds in which nobody starts or stops, and who speaks then in truth and as found."""


def _pieces(truth: Sequence[SpeakerTurn], found: Sequence[SpeakerTurn], collar_s: float) -> list[_Piece]:
    edges = [edge for turn in truth for edge in (turn.start_s, turn.end_s)]
    around = [near for edge in edges for near in (edge - collar_s, edge + collar_s)]
    moments = sorted({*edges, *around, *(edge for turn in found for edge in (turn.start_s, turn.end_s))})
    pieces: list[_Piece] = []
    for start_s, end_s in pairwise(moments):
        middle = (start_s + end_s) / 2
        if all(abs(middle - edge) >= collar_s for edge in edges):
            true = {turn.speaker for turn in truth if turn.start_s <= middle < turn.end_s}
            guessed = {turn.speaker for turn in found if turn.start_s <= middle < turn.end_s}
            pieces.append((end_s - start_s, true, guessed))
    return pieces


def _matching(pieces: Sequence[_Piece]) -> Mapping[str, str]:
    """The true speaker for which each found one stands."""
    from scipy.optimize import linear_sum_assignment

    together: defaultdict[tuple[str, str], float] = defaultdict(float)
    for seconds, true, guessed in pieces:
        for pair in ((name, guess) for name in true for guess in guessed):
            together[pair] += seconds
    names, guesses = (sorted({pair[side] for pair in together}) for side in (0, 1))
    table = np.array([[together[name, guess] for guess in guesses] for name in names]).reshape(len(names), len(guesses))
    rows, columns = linear_sum_assignment(table, maximize=True)
    return {guesses[column]: names[row] for row, column in zip(rows, columns, strict=True)}
