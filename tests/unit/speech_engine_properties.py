"""What every speech engine must keep to. A test class of an engine inherits these tests and says how to build it."""

from __future__ import annotations

from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.engines.base import AudioChunk, Samples, SpeechEngine, SpeechRequest
from deployments.errors import MotetError

GOLDEN = Path(__file__).parent / "golden"
TEXTS = (
    ("Yes.", "It is a quarter past nine."),
    ("Where does the next train go?",),
    ("One, two, three.", "Four, five, six.", "Seven."),
    ("A rather longer sentence, with a clause or two, to make the batch ragged.",),
)


def speak(engine: SpeechEngine[Any], request: SpeechRequest) -> list[AudioChunk]:
    """The utterance alone, step by step; pending chunks are left out."""
    utterance = engine.open(request)
    chunks: list[AudioChunk] = []
    while not utterance.finished:
        chunks.append(good(engine.step([utterance])[0]))
    engine.close(utterance)
    return [chunk for chunk in chunks if not chunk.pending]


def good(result: AudioChunk | Exception) -> AudioChunk:
    if isinstance(result, Exception):
        raise result
    return result


def joined(chunks: list[AudioChunk]) -> Samples:
    return np.concatenate([chunk.samples for chunk in chunks])


class SpeechEngineProperties:
    """Inherit, set `golden_name` and `tolerance`, and give the fixture `engine`."""

    golden_name: str
    tolerance: float

    def request(self, engine: SpeechEngine[Any], number: int = 0) -> SpeechRequest:
        return SpeechRequest(TEXTS[number], engine.traits.default_voice, seed=number)

    def test_chunks_are_sound(self, engine: SpeechEngine[Any]) -> None:
        chunks = speak(engine, self.request(engine))
        assert [index for index, _ in groupby(chunk.index for chunk in chunks)] == [0, 1]
        assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        ends = [before.index != after.index for before, after in pairwise(chunks)] + [True]
        assert [chunk.piece_over for chunk in chunks] == ends
        samples = joined(chunks)
        assert samples.dtype == np.float32
        assert {chunk.sample_rate for chunk in chunks} == {engine.traits.sample_rate}
        assert np.isfinite(samples).all()
        assert 0.01 < np.abs(samples).max() <= 1.0

    def test_batched_equals_single(self, engine: SpeechEngine[Any]) -> None:
        """Streams that join and leave at different steps sound as they do alone."""
        alone = [joined(speak(engine, self.request(engine, n))) for n in range(len(TEXTS))]
        waiting = [(n, engine.open(self.request(engine, n))) for n in range(len(TEXTS))]
        together: dict[int, list[AudioChunk]] = {n: [] for n in range(len(TEXTS))}
        running = [waiting.pop(0)]
        while running:
            results = engine.step([utterance for _, utterance in running])
            for (n, _), result in zip(running, results, strict=True):
                together[n].append(good(result))
            running = [(n, utterance) for n, utterance in running if not utterance.finished]
            running += [waiting.pop(0)] if waiting else []
        for n, samples in enumerate(alone):
            np.testing.assert_allclose(joined(together[n]), samples, rtol=0, atol=self.tolerance)

    def test_spoken_in_parts_equals_whole(self, engine: SpeechEngine[Any]) -> None:
        """A text spoken in several requests, as the gateway does with a long one, is the same sound."""
        whole = self.request(engine, 2)
        parts = [
            SpeechRequest(whole.pieces[at : at + 1], whole.voice, whole.speed, whole.seed, first_index=at)
            for at in range(len(whole.pieces))
        ]
        chunks = [chunk for part in parts for chunk in speak(engine, part)]
        assert [index for index, _ in groupby(chunk.index for chunk in chunks)] == [0, 1, 2]
        np.testing.assert_allclose(joined(chunks), joined(speak(engine, whole)), rtol=0, atol=self.tolerance)

    def test_the_same_seed_gives_the_same_sound_and_another_does_not(self, engine: SpeechEngine[Any]) -> None:
        first, again = (joined(speak(engine, self.request(engine))) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        request = self.request(engine)
        other = joined(speak(engine, SpeechRequest(request.pieces, request.voice, seed=99)))
        assert not np.array_equal(first, other)

    def test_golden(self, engine: SpeechEngine[Any]) -> None:
        """Rewrite with `python -m tests.unit.<this test's module>` after a change that is meant to be heard."""
        kept = np.load(GOLDEN / f"{self.golden_name}.npz")["samples"].astype(np.float32)
        spoken = joined(speak(engine, self.request(engine)))
        assert len(spoken) == len(kept)
        np.testing.assert_allclose(spoken, kept, rtol=0, atol=2e-3)

    def test_closing_frees_the_slot(self, engine: SpeechEngine[Any]) -> None:
        utterance = engine.open(self.request(engine, 2))
        good(engine.step([utterance])[0])
        engine.close(utterance)
        engine.close(utterance)
        assert utterance.finished

    def test_poison_fails_alone(self, engine: SpeechEngine[Any]) -> None:
        mates = [self.request(engine, n) for n in (0, 1)]
        alone = [joined(speak(engine, mate)) for mate in mates]
        utterances = [engine.open(mates[0]), self.poisoned(engine), engine.open(mates[1])]
        together: list[list[AudioChunk | Exception]] = [[], [], []]
        while live := [n for n, utterance in enumerate(utterances) if not utterance.finished]:
            for n, result in zip(live, engine.step([utterances[n] for n in live]), strict=True):
                together[n].append(result)
                if isinstance(result, Exception):
                    engine.close(utterances[n])
        assert isinstance(together[1][-1], Exception)
        for at, samples in zip((0, 2), alone, strict=True):
            np.testing.assert_allclose(joined(list(map(good, together[at]))), samples, rtol=0, atol=self.tolerance)

    def poisoned(self, engine: SpeechEngine[Any]) -> Any:
        """An utterance whose step raises."""
        utterance = engine.open(self.request(engine))
        utterance.pieces = (None, None)
        return utterance

    def test_an_unknown_voice_is_refused_with_the_known_ones(self, engine: SpeechEngine[Any]) -> None:
        with pytest.raises(MotetError, match=engine.traits.default_voice):
            engine.open(SpeechRequest(("Hello.",), "nobody"))


def write_golden(engine: SpeechEngine[Any], properties: SpeechEngineProperties) -> None:
    """Keeps what the engine says now as half-precision samples."""
    samples = joined(speak(engine, properties.request(engine)))
    np.savez_compressed(GOLDEN / f"{properties.golden_name}.npz", samples=samples.astype(np.float16))
