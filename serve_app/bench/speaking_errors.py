"""Word errors of written sentences: as the front-end reads them, and as a recogniser hears them spoken.

Reading needs no model, so all sentences are read in every run. A spoken sentence can be heard wrongly although it was read
well: the recogniser makes errors too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import get_args

import numpy as np

from deployments.engines.protocols import Samples
from deployments.text.word_error_rate import ErrorCount, errors
from serve_app.bench.frame import Figure, Sheet, at_most
from serve_app.bench.local_engines import Engines, wav_of
from serve_app.bench.written_sentences import SentenceGroup, WrittenSentence, written_sentences

GROUPS: tuple[SentenceGroup, ...] = get_args(SentenceGroup)
NEVER_SAID = ("hashtag", "asterisk", "slash slash")
SIGNS = "signs that were said: " + ", ".join(NEVER_SAID)
MOST_WRONG = at_most(4)
"""Each sentence has a form that people do not read as it is written, so a text has fewer of them."""
PAUSE_S = 0.7
LONGEST_RECORDING_S = 28.0
_POINT_IN_TIME = re.compile(r"\b(\d{1,2})\.([0-5]\d)\b")


def as_read(of: str) -> str:
    """The name of a figure, of a group or a kind."""
    return f"word error rate as read, {of}"


def as_heard(of: str) -> str:
    """The name of a figure, of a group or a kind."""
    return f"word error rate as heard, {of}"


def sentences_to_hear(quick: bool) -> tuple[WrittenSentence, ...]:
    """All sentences, or the first held-out one of each kind."""
    if not quick:
        return written_sentences()
    first: dict[str, WrittenSentence] = {}
    for sentence in written_sentences("held-out"):
        first.setdefault(sentence.kind, sentence)
    return tuple(first.values())


def figures(quick: bool) -> list[Figure]:
    """What is measured. A quick run hears too few sentences for a verdict, and for a figure of each kind."""
    heard = {sentence.group for sentence in sentences_to_hear(quick)}
    return [
        *(Figure(as_read(_named(group)), "%", MOST_WRONG) for group in GROUPS),
        *(Figure(as_heard(_named(group)), "%", None if quick else MOST_WRONG) for group in GROUPS if group in heard),
        *(Figure(as_read(kind), "%") for kind in _kinds()),
        *(Figure(as_heard(kind), "%") for kind in _kinds() if not quick),
        Figure(SIGNS, "", None if quick else at_most(0)),
    ]


def measure(sheet: Sheet, engines: Engines, quick: bool) -> None:
    """Reads all sentences, and hears some or all."""
    sentences = written_sentences()
    with sheet.measuring("reading the sentences"):
        _put(sheet, as_read, {sentence: _as_read(engines, sentence) for sentence in sentences})
    with sheet.measuring(f"hearing {len(sentences_to_hear(quick))} sentences"):
        heard = _heard(engines, quick)
        _put(sheet, as_heard, heard, kinds=not quick)
        texts = [outcome.text.lower().replace(",", "") for outcome in heard.values()]
        sheet.put(SIGNS, sum(text.count(sign) for text in texts for sign in NEVER_SAID))


def _heard(engines: Engines, quick: bool) -> dict[WrittenSentence, _SentenceErrors]:
    """What was heard of each recording, by its first sentence."""
    heard = {}
    for together in _heard_together(quick):
        for recording in _recordings(engines, together):
            transcript = engines.transcribe(recording.wav)
            count = best_count(recording.intended, transcript, partial(_read, engines))
            heard[recording.first] = _SentenceErrors(count, transcript, recording.intended)
    return heard


def best_count(intended: str, heard: str, read: Callable[[str], str]) -> ErrorCount:
    """The errors of a transcript. The recogniser writes numbers and addresses in signs as it likes ("7.30" for half past
    seven), so it counts as it is written or as the front-end reads it, whichever has fewer errors."""
    with_colons = _POINT_IN_TIME.sub(r"\1:\2", heard)
    written = [heard, read(heard), read(with_colons)] if heard.strip() else [heard]
    return min((errors([intended], [text]) for text in written), key=lambda count: count.errors)


def _heard_together(quick: bool) -> list[list[WrittenSentence]]:
    """The sentences that may share a recording: those of a kind in a group, or all of a quick run, which has few."""
    together: dict[tuple[str, str], list[WrittenSentence]] = {}
    for sentence in sentences_to_hear(quick):
        together.setdefault(("", "") if quick else (sentence.kind, sentence.group), []).append(sentence)
    return list(together.values())


@dataclass(frozen=True, slots=True)
class _SentenceErrors:
    """The errors in a text that was read or heard instead of the intended one."""

    count: ErrorCount
    text: str
    intended: str


@dataclass(frozen=True, slots=True)
class _Recording:
    """Some sentences of one group, spoken one after the other. `first` names them."""

    wav: bytes
    intended: str
    first: WrittenSentence


@dataclass(slots=True)
class _Spoken:
    """Sentences that have been spoken and not yet joined."""

    sounds: list[Samples] = field(default_factory=list)
    sentences: list[WrittenSentence] = field(default_factory=list)

    def joined(self, rate: int) -> _Recording:
        intended = " ".join(sentence.intended for sentence in self.sentences)
        return _Recording(wav_of(np.concatenate(self.sounds), rate), intended, self.sentences[0])


def _recordings(engines: Engines, sentences: Sequence[WrittenSentence]) -> Iterator[_Recording]:
    """The sentences, with a pause between them, in recordings of at most one window of the recogniser: it hears a sentence
    alone less well, and often twice."""
    rate = engines.speech.traits.sample_rate
    pause = np.zeros(int(PAUSE_S * rate), np.float32)
    spoken = _Spoken()
    for sentence in sentences:
        sound = engines.say(sentence.written)
        if spoken.sounds and sum(map(len, spoken.sounds)) + len(sound) > LONGEST_RECORDING_S * rate:
            yield spoken.joined(rate)
            spoken = _Spoken()
        spoken.sounds += [sound, pause]
        spoken.sentences.append(sentence)
    if spoken.sentences:
        yield spoken.joined(rate)


def _as_read(engines: Engines, sentence: WrittenSentence) -> _SentenceErrors:
    text = _read(engines, sentence.written)
    return _SentenceErrors(errors([sentence.intended], [text]), text, sentence.intended)


def _read(engines: Engines, text: str) -> str:
    return " ".join(piece.spoken for piece in engines.pieces(text))


def _put(
    sheet: Sheet, name: Callable[[str], str], outcomes: dict[WrittenSentence, _SentenceErrors], *, kinds: bool = True
) -> None:
    """Fills in the figures of groups and kinds. The notes of kinds say which texts differ."""
    for group in GROUPS:
        if of_group := [outcome for sentence, outcome in outcomes.items() if sentence.group == group]:
            count = _pooled(of_group)
            sheet.put(name(_named(group)), count.rate * 100, f"{count.errors} errors in {count.words} words")
    for kind in _kinds() if kinds else ():
        of_kind = {sentence: outcome for sentence, outcome in outcomes.items() if sentence.kind == kind}
        counts = {group: _pooled(one for s, one in of_kind.items() if s.group == group) for group in GROUPS}
        shares = [f"{group} {count.errors} of {count.words}" for group, count in counts.items()]
        differing = [f"{one.intended!r} was {one.text.strip()!r}" for one in of_kind.values() if one.count.errors]
        sheet.put(name(kind), _pooled(of_kind.values()).rate * 100, "; ".join([*shares, *differing]))


def _pooled(outcomes: Iterable[_SentenceErrors]) -> ErrorCount:
    counts = [outcome.count for outcome in outcomes]
    return ErrorCount(sum(count.words for count in counts), sum(count.errors for count in counts))


def _kinds() -> tuple[str, ...]:
    return tuple(dict.fromkeys(sentence.kind for sentence in written_sentences()))


def _named(group: SentenceGroup) -> str:
    return f"{group} sentences"
