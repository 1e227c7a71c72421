"""The properties of every engine that hears a stream while it is spoken. A test class of an engine inherits these tests and
provides the fixture `engine` and the method `offline`."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from deployments.engines.protocols import RecognitionOptions, Samples
from deployments.engines.streaming import PartialTranscript, StreamingRecognition
from deployments.errors import MotetError
from deployments.text.agreement import plain, words_in
from tests.unit.recognition_engine_properties import SENTENCES, spoken

Streaming = StreamingRecognition[Any]
BLOCK_S = 0.4
"""The sound between two steps."""


@dataclass(eq=False)
class Talk:
    """One stream of a test, fed block by block. `said` has what each step gave."""

    engine: Streaming
    samples: Samples
    options: RecognitionOptions = field(default_factory=lambda: RecognitionOptions(language="en"))
    said: list[PartialTranscript | Exception] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stream = self.engine.open(self.options)
        self._blocks = self._cut()

    def _cut(self) -> Iterator[Samples]:
        length = int(BLOCK_S * self.engine.traits.sample_rate)
        for at in range(0, len(self.samples), length):
            yield self.samples[at : at + length].copy()

    @property
    def over(self) -> bool:
        """Whether the stream gave its last transcript, or failed."""
        return bool(self.said) and (isinstance(self.said[-1], Exception) or self.said[-1].last)

    @property
    def texts(self) -> list[PartialTranscript]:
        """What the steps gave. Raises the error of one that failed."""
        for each in self.said:
            if isinstance(each, Exception):
                raise each
        return [each for each in self.said if isinstance(each, PartialTranscript)]

    def feed(self) -> None:
        """Pushes the next block, or says that the sound is over."""
        block = next(self._blocks, None)
        if block is None:
            self.engine.finish(self.stream, len(self.samples))
        else:
            self.engine.push(self.stream, block)


def hear(engine: Streaming, *talks: Talk) -> None:
    """Feeds all streams to their ends, with steps that they share."""
    while open_ones := [talk for talk in talks if not talk.over]:
        for talk in open_ones:
            talk.feed()
        results = engine.step([talk.stream for talk in open_ones])
        assert len(results) == len(open_ones)
        for talk, result in zip(open_ones, results, strict=True):
            talk.said.append(result)


def plain_words(text: str) -> list[str]:
    """The words of a text without case and punctuation."""
    return [plain(word) for word in words_in(text)]


class StreamingEngineProperties:
    """Of a streaming engine with the weights of a real model. Inherit it, and say what the engine hears offline."""

    def sound(self, engine: Streaming, number: int) -> Samples:
        """One of several turns: mono samples at the engine's rate."""
        return spoken(SENTENCES[number], engine.traits.sample_rate)

    def offline(self, engine: Streaming, samples: Samples) -> str:
        """The text of the whole turn, heard at once."""
        raise NotImplementedError

    def talk(self, engine: Streaming, number: int) -> Talk:
        """A stream of a turn."""
        return Talk(engine, self.sound(engine, number))

    @pytest.mark.parametrize("number", range(len(SENTENCES)))
    def test_streamed_equals_offline(self, engine: Streaming, number: int) -> None:
        talk = self.talk(engine, number)
        hear(engine, talk)
        last = talk.texts[-1]
        assert last.last and talk.stream.finished
        assert plain_words(last.committed) == plain_words(self.offline(engine, talk.samples))
        assert last.transcript is not None
        assert last.transcript.text.split() == last.committed.split()
        assert last.tentative == ""

    def test_batched_equals_single(self, engine: Streaming) -> None:
        alone = [self.talk(engine, number) for number in range(len(SENTENCES))]
        for talk in alone:
            hear(engine, talk)
        together = [self.talk(engine, number) for number in range(len(SENTENCES))]
        hear(engine, *together)
        for one, other in zip(together, alone, strict=True):
            assert one.texts[-1].committed == other.texts[-1].committed

    def test_committed_text_never_changes_and_comes_before_the_end(self, engine: Streaming) -> None:
        talk = Talk(engine, np.concatenate([self.sound(engine, number) for number in range(len(SENTENCES))]))
        hear(engine, talk)
        texts = [each.committed for each in talk.texts]
        assert all(later.startswith(before) for before, later in itertools.pairwise(texts))
        assert len(texts[-2].split()) > len(texts[-1].split()) / 2
        covered = [each.heard_samples for each in talk.texts]
        assert covered == sorted(covered)
        assert [each.last for each in talk.texts] == [False] * (len(texts) - 1) + [True]

    def test_poison_fails_alone(self, engine: Streaming) -> None:
        broken = Talk(engine, np.full(engine.traits.sample_rate, np.nan, np.float32))
        good, alone = self.talk(engine, 0), self.talk(engine, 0)
        hear(engine, broken, good)
        hear(engine, alone)
        assert isinstance(broken.said[-1], MotetError)
        assert good.texts[-1].committed == alone.texts[-1].committed

    def test_options_that_the_model_cannot_follow_are_refused(self, engine: Streaming) -> None:
        if not engine.traits.languages:
            pytest.skip("The model takes any language.")
        with pytest.raises(MotetError):
            engine.open(RecognitionOptions(language="xx"))

    def test_a_closed_stream_holds_no_sound(self, engine: Streaming) -> None:
        cancelled, other = self.talk(engine, 1), self.talk(engine, 0)
        block = cancelled.samples[: engine.traits.sample_rate].copy()
        held = weakref.ref(block)
        engine.push(cancelled.stream, block)
        other.feed()
        engine.step([cancelled.stream, other.stream])
        engine.close(cancelled.stream)
        engine.close(cancelled.stream)
        del block
        gc.collect()
        assert held() is None
        hear(engine, other)
        assert plain_words(other.texts[-1].committed) == plain_words(self.offline(engine, other.samples))

    def test_silence_says_nothing(self, engine: Streaming) -> None:
        talk = Talk(engine, np.zeros(3 * engine.traits.sample_rate, np.float32))
        hear(engine, talk)
        assert talk.texts[-1].committed == ""

    def test_a_stream_without_sound_ends(self, engine: Streaming) -> None:
        stream = engine.open(RecognitionOptions())
        engine.finish(stream, 0)
        assert engine.cost(stream) == 0
        (last,) = engine.step([stream])
        assert isinstance(last, PartialTranscript)
        assert (last.last, last.committed, stream.finished) == (True, "", True)

    def test_a_stream_that_was_heard_to_its_end_ends_at_no_cost(self, engine: Streaming) -> None:
        talk = self.talk(engine, 2)
        engine.push(talk.stream, np.concatenate([talk.samples, np.zeros(engine.traits.sample_rate, np.float32)]))
        (before,) = engine.step([talk.stream])
        engine.finish(talk.stream, len(talk.samples))
        assert engine.cost(talk.stream) == 0
        (last,) = engine.step([talk.stream])
        assert isinstance(before, PartialTranscript)
        assert isinstance(last, PartialTranscript)
        assert plain_words(last.committed) == plain_words(f"{before.committed} {before.tentative}")


def texts_of(results: Sequence[PartialTranscript | Exception]) -> list[tuple[str, str]]:
    """Committed and tentative text of each. Raises the error of one that failed."""
    for each in results:
        if isinstance(each, Exception):
            raise each
    return [(each.committed, each.tentative) for each in results if isinstance(each, PartialTranscript)]
