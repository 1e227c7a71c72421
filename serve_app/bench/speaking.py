"""How well written texts are spoken: 200 sentences with numbers, addresses, Markdown and other kinds of text, heard back by
the default recogniser; what the front-end costs; the times of words; and spoiled pieces that are found.
"""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np

from deployments.engines.protocols import Samples
from deployments.text.normalization.normalizer import load_libraries
from deployments.text.normalization.rules import AS_WRITTEN, ReadingRules
from deployments.text.sample_sentences import SENTENCES
from deployments.text.word_error_rate import ErrorCount, errors
from serve_app.bench import speaking_quality, speaking_words
from serve_app.bench.frame import Figure, Report, Sheet, at_most, carry_out, interleaved, spread
from serve_app.bench.local_engines import Engines, wav_of
from serve_app.bench.written_sentences import WrittenSentence, written_sentences
from serve_app.config import AppConfig

NEVER_SAID = ("hashtag", "asterisk", "slash slash")
LATER = "first sound later than without the front-end"
COST = "front-end, p95"
ALL_KINDS = "word error rate, all kinds"
SIGNS = "signs that were said: " + ", ".join(NEVER_SAID)
PAUSE_S = 0.7
LONGEST_RECORDING_S = 28.0
_POINT_IN_TIME = re.compile(r"\b(\d{1,2})\.([0-5]\d)\b")
COST_CALLS = 5
COST_CHARACTERS = 100
"""The texts whose cost is measured are at least this long, as most requests are."""


@dataclass(frozen=True, slots=True)
class SpeakingPlan:
    """How much is measured: sentences of each kind, and rounds of the first sound."""

    sentences_of_kind: int
    rounds: int


QUICK = SpeakingPlan(sentences_of_kind=1, rounds=5)
FULL = SpeakingPlan(sentences_of_kind=200, rounds=30)


def run(quick: bool) -> Report:
    """Measures everything; `quick` takes one sentence of each kind."""
    plan = QUICK if quick else FULL
    kinds = sentences_by_kind(plan.sentences_of_kind)

    def measure(sheet: Sheet) -> None:
        engines = Engines(AppConfig())
        with sheet.measuring("the cost of the front-end"):
            _measure_cost(sheet, engines)
        with sheet.measuring("the first sound"):
            _measure_first_sound(sheet, engines, plan.rounds)
        _measure_errors(sheet, engines, kinds)
        with sheet.measuring("the times of words"):
            speaking_words.measure(sheet, engines, quick)
        with sheet.measuring("spoiled pieces"):
            speaking_quality.measure(sheet, engines, quick)

    return carry_out("speaking", figures(kinds), measure, quick=quick)


def figures(kinds: Mapping[str, Sequence[WrittenSentence]]) -> list[Figure]:
    """What is measured."""
    return [
        Figure(ALL_KINDS, "%", at_most(4)),
        *(Figure(_name(kind), "%") for kind in kinds),
        Figure(SIGNS, "", at_most(0)),
        Figure(COST, "ms per 100 characters", at_most(1)),
        Figure(LATER, "ms", at_most(2)),
        *speaking_words.FIGURES,
        *speaking_quality.FIGURES,
    ]


def sentences_by_kind(most: int) -> dict[str, list[WrittenSentence]]:
    """The first `most` sentences of each kind."""
    grouped = groupby(written_sentences(), key=lambda sentence: sentence.kind)
    return {kind: list(sentences)[:most] for kind, sentences in grouped}


def best_count(intended: str, heard: str, read: Callable[[str], str]) -> ErrorCount:
    """The errors of a transcript. The recogniser writes numbers and addresses in signs as it likes ("7.30" for half past
    seven), so it counts as it is written or as the front-end reads it, whichever has fewer errors."""
    with_colons = _POINT_IN_TIME.sub(r"\1:\2", heard)
    written = [heard, read(heard), read(with_colons)] if heard.strip() else [heard]
    return min((errors([intended], [text]) for text in written), key=lambda count: count.errors)


def _measure_errors(sheet: Sheet, engines: Engines, kinds: Mapping[str, Sequence[WrittenSentence]]) -> None:
    words = wrong = said_signs = 0
    for kind, sentences in kinds.items():
        with sheet.measuring(f"hearing {kind}"):
            count, notes = ErrorCount(0, 0), []
            for group in _recordings(engines, sentences):
                heard = engines.transcribe(group.wav)
                of_one = best_count(group.intended, heard, partial(_read, engines))
                count = ErrorCount(count.words + of_one.words, count.errors + of_one.errors)
                said_signs += sum(heard.lower().replace(",", "").count(sign) for sign in NEVER_SAID)
                notes += [f"{group.intended!r} was heard as {heard.strip()!r}"] if of_one.errors else []
            words, wrong = words + count.words, wrong + count.errors
            found = f"{count.errors} errors in {count.words} words of {len(sentences)} sentences"
            sheet.put(_name(kind), count.rate * 100, "; ".join([found, *notes]))
    sheet.put(ALL_KINDS, ErrorCount(words, wrong).rate * 100, f"{wrong} errors in {words} words")
    sheet.put(SIGNS, said_signs)


def _read(engines: Engines, text: str) -> str:
    return " ".join(piece.spoken for piece in engines.pieces(text))


@dataclass(frozen=True, slots=True)
class _Recording:
    """Some sentences, spoken one after the other."""

    wav: bytes
    intended: str


def _recordings(engines: Engines, sentences: Sequence[WrittenSentence]) -> Iterator[_Recording]:
    """The sentences, with a pause between them, in recordings of at most one window of the recogniser: it hears a sentence
    alone less well, and often twice."""
    rate = engines.speech.traits.sample_rate
    pause = np.zeros(int(PAUSE_S * rate), np.float32)
    sounds: list[Samples] = []
    intended: list[str] = []
    for sentence in sentences:
        sound = engines.say(sentence.written)
        if sounds and sum(map(len, sounds)) + len(sound) > LONGEST_RECORDING_S * rate:
            yield _Recording(wav_of(np.concatenate(sounds), rate), " ".join(intended))
            sounds, intended = [], []
        sounds += [sound, pause]
        intended.append(sentence.intended)
    yield _Recording(wav_of(np.concatenate(sounds), rate), " ".join(intended))


def _measure_cost(sheet: Sheet, engines: Engines) -> None:
    """What reading costs: the time with the front-end less the time for cutting alone."""
    costs = []
    load_libraries()
    gc.collect()
    for text in _texts():
        read, cut = (_least_seconds(partial(engines.pieces, text, rules)) for rules in (None, AS_WRITTEN))
        costs.append((read - cut) * 1000 / len(text) * 100)
    found = spread(costs)
    sheet.put(COST, found.p95, f"median {found.p50:.2f}, of {len(costs)} texts")


def _texts() -> Iterator[str]:
    """All written sentences, with as many in a text as it takes."""
    text = ""
    for sentence in written_sentences():
        text = f"{text}\n\n{sentence.written}" if text else sentence.written
        if len(text) >= COST_CHARACTERS:
            yield text
            text = ""


def _least_seconds(call: Callable[[], object]) -> float:
    """Of a few calls: other processes take the processor in between."""
    times = []
    for _ in range(COST_CALLS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def _measure_first_sound(sheet: Sheet, engines: Engines, rounds: int) -> None:
    """The front-end's part of the first sound, of sentences whose first piece it leaves as it is. Each sentence counts with
    its shortest time of all rounds, because other processes take the processor in between."""
    texts = [text for text in SENTENCES if engines.pieces(text)[0].spoken == engines.pieces(text, AS_WRITTEN)[0].spoken]
    later, without = [], []
    for text in texts:
        with_it, without_it = (partial(_first_sound_ms, engines, text, rules) for rules in (None, AS_WRITTEN))
        times = interleaved({"with": with_it, "without": without_it}, rounds)
        later.append(min(times["with"]) - min(times["without"]))
        without.append(min(times["without"]))
    found = spread(later)
    sheet.put(
        LATER, found.p50, f"{found}; {spread(without).p50:.1f} ms without it; {len(texts)} sentences, {rounds} rounds"
    )


def _first_sound_ms(engines: Engines, text: str, rules: ReadingRules | None) -> float:
    start = time.perf_counter()
    chunks = engines.spoken(engines.pieces(text, rules))
    next(chunks)
    passed = time.perf_counter() - start
    chunks.close()
    return passed * 1000


def _name(kind: str) -> str:
    return f"word error rate, {kind}"
