"""Whether the checks of pieces find what is wrong: a text of 100 pieces, of which 10 are spoiled on purpose when they are
first made. The default voice speaks them, and the default recogniser verifies them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deployments.engines.protocols import AudioChunk, Samples, SpeechEngine, SpeechRequest, SpeechTraits
from deployments.settings import PieceSettings
from deployments.tasks.in_process_speech import speak_here
from deployments.tasks.piece_checks import PieceChecks
from deployments.tasks.piece_hearing import EngineHearing
from deployments.tasks.piece_quality import PieceQuality, QualitySettings
from deployments.text.sample_sentences import LONG_TEXT, SENTENCES
from deployments.text.segmentation import cut_into_pieces
from serve_app.bench.frame import Figure, Sheet, at_least, at_most, target_for
from serve_app.bench.hearing_corpus import TEXT
from serve_app.bench.local_engines import Engines

PIECES, QUICK_PIECES = 100, 12
SPOILED_OF, QUICK_SPOILED_OF = 10, 1
"""One in this many pieces is spoiled; the kinds of fault take turns."""
FIRST_SPOILED = 7
"""Pieces are compared with those before them, so the first ones are good."""
FOUND, FALSE_ALARMS, CORRECTED, COST = (
    "spoiled pieces that were found",
    "false alarms",
    "spoiled pieces without a fault after they were made again",
    "checks without verification, of real time",
)
UNHEARD = "spoiled pieces that were found without verification, other words aside"
UNHEARD_ALARMS = "false alarms without verification"
Spoil = Callable[[Samples, Samples], Samples]
"""From the sound of a piece, and of other words, to a spoiled one."""


def _repeated(sound: Samples, _: Samples) -> Samples:
    start, end = len(sound) // 5, len(sound) // 2
    return np.concatenate([sound[:end], sound[start:]])


SPOILED: Mapping[str, Spoil] = {
    "clipped": lambda sound, _: np.clip(sound / np.abs(sound).max() * 4, -1, 1),
    "cut": lambda sound, _: sound[: int(0.55 * len(sound))],
    "silent": lambda sound, _: np.zeros_like(sound),
    "repeated": _repeated,
    "other words": lambda _, other: other,
}


class SpoilingEngine:
    """The engine, with some pieces spoiled when their seed is the request's own (0)."""

    def __init__(self, engine: SpeechEngine[Any], spoiled: Mapping[int, str]) -> None:
        self._engine = engine
        self._spoiled = spoiled
        self._last: Samples = np.zeros(1, np.float32)
        self.open, self.close = engine.open, engine.close
        self.first_cost, self.cost = engine.first_cost, engine.cost

    @property
    def traits(self) -> SpeechTraits:
        """Those of the engine."""
        return self._engine.traits

    def step(self, utterances: Sequence[Any]) -> list[AudioChunk | Exception]:
        """A step of the engine, which gives a piece in one chunk."""
        return [self._passed(chunk) for chunk in self._engine.step(utterances)]

    def _passed(self, chunk: AudioChunk | Exception) -> AudioChunk | Exception:
        if isinstance(chunk, Exception) or not len(chunk.samples):
            return chunk
        way, self._spoiled = (
            self._spoiled.get(chunk.index),
            {n: w for n, w in self._spoiled.items() if n != chunk.index},
        )
        other, self._last = self._last, chunk.samples
        return chunk if way is None else replace(chunk, samples=SPOILED[way](chunk.samples, other))


@dataclass
class _Timed:
    """Runs the arithmetic of the checks, and adds up its seconds."""

    seconds: float = 0.0

    async def __call__(self, work: Callable[..., Any], *arguments: Any) -> Any:
        started = time.process_time()
        try:
            return work(*arguments)
        finally:
            self.seconds += time.process_time() - started


def texts(count: int) -> tuple[str, ...]:
    """Pieces of the test texts, in the order in which they stand there."""
    return cut_into_pieces("\n\n".join([*SENTENCES, LONG_TEXT, TEXT.read_text()]), PieceSettings())[:count]


def spoiled_pieces(quick: bool) -> dict[int, str]:
    """The numbers of the pieces that are spoiled, and how."""
    ways = list(SPOILED)
    count, every = (QUICK_PIECES, QUICK_SPOILED_OF) if quick else (PIECES, SPOILED_OF)
    return {number: ways[at % len(ways)] for at, number in enumerate(range(FIRST_SPOILED, count, every))}


def figures(quick: bool) -> list[Figure]:
    """What is measured."""
    pieces, spoiled = QUICK_PIECES if quick else PIECES, len(spoiled_pieces(quick))
    return [
        Figure(FOUND, "%", target_for(at_least(90), spoiled)),
        Figure(FALSE_ALARMS, "% of pieces", target_for(at_most(1), pieces)),
        Figure(CORRECTED, "%"),
        Figure(UNHEARD, "%"),
        Figure(UNHEARD_ALARMS, "% of pieces", target_for(at_most(1), pieces)),
        Figure(COST, "%", at_most(3)),
    ]


def measure(sheet: Sheet, engines: Engines, quick: bool) -> None:
    """Speaks the text twice, without and with verification. `quick` takes 12 pieces, one with each fault."""
    pieces = texts(QUICK_PIECES if quick else PIECES)
    spoiled = spoiled_pieces(quick)
    with sheet.measuring("the checks of pieces"):
        timed = _Timed()
        found, seconds = _spoken(
            engines, pieces, spoiled, PieceChecks(QualitySettings(), engines.speech.traits, beside=timed)
        )
        audible = {number: way for number, way in spoiled.items() if way != "other words"}
        _put(sheet, UNHEARD, UNHEARD_ALARMS, found, audible, set(spoiled) - set(audible))
        sheet.put(COST, timed.seconds / seconds * 100, f"{timed.seconds / seconds * 1000:.2f} ms for a second of sound")
    with sheet.measuring("the verification of pieces"):
        hearing = EngineHearing(engines.recognition)
        checks = PieceChecks(QualitySettings(), engines.speech.traits, hearing=hearing)
        found, _ = _spoken(engines, pieces, spoiled, checks)
        _put(sheet, FOUND, FALSE_ALARMS, found, spoiled, set())
        corrected = [number for number in spoiled if not found[number].faults]
        sheet.put(CORRECTED, len(corrected) / len(spoiled) * 100, f"{len(corrected)} of {len(spoiled)}")


def _spoken(
    engines: Engines, pieces: tuple[str, ...], spoiled: Mapping[int, str], checks: PieceChecks
) -> tuple[dict[int, PieceQuality], float]:
    """What was found in each piece, and the seconds of sound."""
    engine = SpoilingEngine(engines.speech, spoiled)
    request = SpeechRequest(pieces, engine.traits.default_voice)
    seconds = sum(chunk.seconds for chunk in speak_here(request, engine, checks=checks))
    return {quality.index: quality for quality in checks.found}, seconds


def _put(
    sheet: Sheet,
    found_name: str,
    alarms_name: str,
    found: Mapping[int, PieceQuality],
    spoiled: Mapping[int, str],
    left_out: set[int],
) -> None:
    hits = {number: way for number, way in spoiled.items() if found[number].first_faults}
    missed = [f"{number} ({way})" for number, way in spoiled.items() if number not in hits]
    note = f"{len(hits)} of {len(spoiled)}" + (f"; not {', '.join(missed)}" if missed else "")
    sheet.put(found_name, len(hits) / len(spoiled) * 100, note)
    good = [quality for number, quality in found.items() if number not in spoiled and number not in left_out]
    alarms = [quality for quality in good if quality.first_faults]
    notes = [f"{quality.index} {', '.join(quality.first_faults)}: {quality.heard or ''}" for quality in alarms]
    sheet.put(alarms_name, len(alarms) / len(found) * 100, "; ".join([f"{len(alarms)} of {len(good)}", *notes]))
