"""The properties of every speech engine. A test class of an engine inherits these tests and provides the fixture `engine`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.engines import registry
from deployments.engines.protocols import AudioChunk, Samples, SpeechEngine, SpeechRequest
from deployments.errors import MotetError
from tests.unit.forced_path import ForcedPath

HALF_PRECISION = 2e-3
"""Golden scores are stored in half precision: its rounding is at most 2**-11 of a number, and scores of one sign are up to
four times as large as their spread."""
GOLDEN = Path(__file__).parent / "golden"
TEXTS = (
    ("Yes.", "It is a quarter past nine."),
    ("Where does the next train go?",),
    ("One, two, three.", "Four, five, six.", "Seven."),
    ("A rather longer sentence, with a clause or two, to make the batch ragged.",),
)


def speak(engine: SpeechEngine[Any], request: SpeechRequest) -> list[AudioChunk]:
    """Speaks the request alone, step by step; pending chunks are left out."""
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
    """Inherit it, set `golden_name`, `tolerance` and, for a model that samples, `score_tolerance`; provide the fixture
    `engine`.

    A model that samples overrides `following`, which makes it take the choices of a path. `tolerance` is a share of full
    scale, `score_tolerance` a share of the spread of the scores.
    """

    golden_name: str
    tolerance: float
    golden_tolerance: float = 2e-3
    score_tolerance: float = 0.0

    def request(self, engine: SpeechEngine[Any], number: int = 0) -> SpeechRequest:
        return SpeechRequest(TEXTS[number], engine.traits.default_voice, seed=number)

    def following(self, engine: SpeechEngine[Any], path: ForcedPath) -> AbstractContextManager[None]:
        """Inside, the engine takes the choices of the path."""
        return nullcontext()

    def test_the_registry_knows_that_it_makes_voices_from_clips(self, engine: SpeechEngine[Any]) -> None:
        module = type(engine).__module__
        known = [entry.clones for entry in registry.ENGINES.values() if entry.module == module]
        assert not engine.traits.clones or known == [True]

    def assert_near(self, samples: Samples, others: Samples, tolerance: float) -> None:
        """Both have the same length, and no sample differs by more than the tolerance."""
        assert len(samples) == len(others)
        np.testing.assert_allclose(samples, others, rtol=0, atol=tolerance)

    def assert_golden(self, samples: Samples, kept: Samples) -> None:
        """The audio is that of the golden file within `golden_tolerance`."""
        self.assert_near(samples, kept, self.golden_tolerance)

    def assert_same(self, samples: Samples, others: Samples, path: ForcedPath) -> None:
        """The audio and the scores of the choices are equal within the tolerances."""
        self.assert_near(samples, others, self.tolerance)
        assert path.deviation <= self.score_tolerance

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

    @pytest.mark.numeric
    def test_batched_equals_single(self, engine: SpeechEngine[Any]) -> None:
        """Streams that join and leave the batch at different steps give the same audio as alone."""
        path = ForcedPath()
        with self.following(engine, path):
            alone = [joined(speak(engine, self.request(engine, n))) for n in range(len(TEXTS))]
            together = self._joining_and_leaving(engine)
        for n, samples in enumerate(alone):
            self.assert_same(joined(together[n]), samples, path)

    def _joining_and_leaving(self, engine: SpeechEngine[Any]) -> dict[int, list[AudioChunk]]:
        waiting = [(n, engine.open(self.request(engine, n))) for n in range(len(TEXTS))]
        together: dict[int, list[AudioChunk]] = {n: [] for n in range(len(TEXTS))}
        running = [waiting.pop(0)]
        while running:
            results = engine.step([utterance for _, utterance in running])
            for (n, _), result in zip(running, results, strict=True):
                together[n].append(good(result))
            running = [(n, utterance) for n, utterance in running if not utterance.finished]
            running += [waiting.pop(0)] if waiting else []
        return together

    def test_spoken_in_parts_equals_whole(self, engine: SpeechEngine[Any]) -> None:
        """A text that is spoken in several requests, as the gateway does with a long one, gives the same audio."""
        whole = self.request(engine, 2)
        parts = [
            SpeechRequest(whole.pieces[at : at + 1], whole.voice, whole.speed, whole.seed, first_index=at)
            for at in range(len(whole.pieces))
        ]
        path = ForcedPath()
        with self.following(engine, path):
            chunks = [chunk for part in parts for chunk in speak(engine, part)]
            unbroken = joined(speak(engine, whole))
        assert [index for index, _ in groupby(chunk.index for chunk in chunks)] == [0, 1, 2]
        self.assert_same(joined(chunks), unbroken, path)

    def test_the_same_seed_gives_the_same_sound_and_another_does_not(self, engine: SpeechEngine[Any]) -> None:
        first, again = (joined(speak(engine, self.request(engine))) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        request = self.request(engine)
        other = joined(speak(engine, SpeechRequest(request.pieces, request.voice, seed=99)))
        assert not np.array_equal(first, other)

    @pytest.mark.numeric
    def test_golden(self, engine: SpeechEngine[Any]) -> None:
        """Along the stored path. Rewrite with `python -m tests.unit.<the test module>` after a change that is meant to change
        the audio."""
        kept = np.load(GOLDEN / f"{self.golden_name}.npz")
        path = ForcedPath.of(kept) if "choices" in kept else ForcedPath()
        with self.following(engine, path):
            spoken = joined(speak(engine, self.request(engine)))
        self.assert_golden(spoken, kept["samples"].astype(np.float32))
        assert path.deviation <= max(self.score_tolerance, HALF_PRECISION)

    def test_closing_frees_the_slot(self, engine: SpeechEngine[Any]) -> None:
        utterance = engine.open(self.request(engine, 2))
        good(engine.step([utterance])[0])
        engine.close(utterance)
        engine.close(utterance)
        assert utterance.finished

    def test_poison_fails_alone(self, engine: SpeechEngine[Any]) -> None:
        mates = [self.request(engine, n) for n in (0, 1)]
        path = ForcedPath()
        with self.following(engine, path):
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
                self.assert_same(joined(list(map(good, together[at]))), samples, path)

    def poisoned(self, engine: SpeechEngine[Any]) -> Any:
        """An utterance whose step fails."""
        utterance = engine.open(self.request(engine))
        utterance.pieces = (None, None)
        return utterance

    def test_an_unknown_voice_is_refused_with_the_known_ones(self, engine: SpeechEngine[Any]) -> None:
        with pytest.raises(MotetError, match=engine.traits.default_voice):
            engine.open(SpeechRequest(("Hello.",), "nobody"))


class Int8Properties(SpeechEngineProperties):
    """The properties of an engine with int8 weights and activations. Provide the fixture `exact` as well, the same engine in
    float32.

    Where the last bit of a float32 decides how a number is rounded to int8, processors and batches differ by one int8 step,
    and after some layers they differ as two roundings of the same numbers do. Each result is within `error` of float32 (root
    mean square, as a share of the audio or of the scores' spread), which `test_it_is_near_float32` checks. So two results are
    within twice that, on any processor. The error is a sum of very many roundings and varies little; `error` is 1.5 times the
    measured one.
    """

    error: float
    score_error: float

    def __init_subclass__(cls) -> None:
        cls.tolerance, cls.score_tolerance = 2 * cls.error, 2 * cls.score_error
        cls.golden_tolerance = cls.tolerance + HALF_PRECISION

    def assert_near(self, samples: Samples, others: Samples, tolerance: float) -> None:
        """Both have the same length, and differ by at most that share of the audio."""
        assert len(samples) == len(others)
        assert np.linalg.norm(samples - others) <= tolerance * np.linalg.norm(others)

    @pytest.mark.numeric
    def test_it_is_near_float32(self, engine: SpeechEngine[Any], exact: SpeechEngine[Any]) -> None:
        """Along the path of float32."""
        path, sounds = ForcedPath(), []
        for each in (exact, engine):
            with self.following(each, path):
                sounds.append(np.concatenate([joined(speak(each, self.request(each, n))) for n in range(len(TEXTS))]))
        wanted, made = sounds
        assert len(made) == len(wanted)
        assert np.linalg.norm(made - wanted) <= self.error * np.linalg.norm(wanted)
        assert path.deviation <= self.score_error


def write_golden(engine: SpeechEngine[Any], properties: SpeechEngineProperties) -> None:
    """Stores the engine's audio now, and its path, in half precision."""
    path = ForcedPath()
    with properties.following(engine, path):
        first = joined(speak(engine, properties.request(engine)))
    arrays: dict[str, Any] = dict(path.arrays()) if path.decisions else {}
    if path.decisions:  # what is read again was rounded: the golden sound is that of the path as it is kept
        with properties.following(engine, again := ForcedPath.of(arrays)):
            first = joined(speak(engine, properties.request(engine)))
        arrays["scores"] = again.own_scores()
    np.savez_compressed(GOLDEN / f"{properties.golden_name}.npz", samples=first.astype(np.float16), **arrays)
