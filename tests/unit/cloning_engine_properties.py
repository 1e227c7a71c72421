"""The properties of voice-cloning engines, and clips for their voices."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.audio.test_tone import hum
from deployments.engines.forgotten_voices import KeepsVoices
from deployments.engines.protocols import Samples, SpeechEngine, SpeechRequest, VoiceReference
from deployments.errors import MotetError
from tests.unit.forced_path import ForcedPath
from tests.unit.speech_engine_properties import TEXTS, SpeechEngineProperties, good, joined, speak

PIECES = [piece for pieces in TEXTS for piece in pieces]


def clip(seconds: float = 3.0, *, seed: int = 0, rate: int = 24_000) -> Samples:
    """Mono float32 with loud and quiet parts."""
    voice = hum(rate, seconds, 140.0 + 40 * seed)
    noise = np.random.default_rng(seed).standard_normal(len(voice)) * 0.02
    return (voice + noise).astype(np.float32)


def write_wav(file: Path, samples: Samples, rate: int = 24_000) -> None:
    """16-bit mono."""
    with wave.open(str(file), "wb") as target:
        target.setnchannels(1)
        target.setsampwidth(2)
        target.setframerate(rate)
        target.writeframes((samples * 32767).astype("<i2").tobytes())


def write_voices(folder: Path, seconds: Sequence[float], rate: int = 24_000) -> None:
    """Clips of these lengths in seconds for `ada` and `ben`, or for `ada` alone."""
    (folder / "voices").mkdir()
    for seed, (name, length) in enumerate(zip(("ada", "ben"), seconds, strict=False)):
        write_wav(folder / "voices" / f"{name}.wav", clip(length, seed=seed, rate=rate), rate)


def joining_one_by_one(engine: SpeechEngine[Any], utterances: Sequence[Any]) -> list[Samples]:
    """The audio of utterances that join the batch one step after the other, and leave it as they end."""
    heard: list[list[Any]] = [[] for _ in utterances]
    here = 1
    while live := [n for n in range(here) if not utterances[n].finished]:
        for n, result in zip(live, engine.step([utterances[n] for n in live]), strict=True):
            heard[n].append(good(result))
        here = min(here + 1, len(utterances))
    return [joined(chunks) for chunks in heard]


class CloningEngineProperties(SpeechEngineProperties):
    """Inherit it, and provide the fixture `small` as well: the engine with two slots and a cache of one voice."""

    def test_a_full_engine_refuses_and_a_leaver_makes_room(self, small: Any) -> None:
        free = small.cache.free
        requests = [SpeechRequest((piece,), "ada", seed=n) for n, piece in enumerate(PIECES[:3])]
        path = ForcedPath()
        with self.following(small, path):
            alone = joined(speak(small, requests[2]))
            utterances = [small.open(request) for request in requests]
            refused = small.step(utterances)[2]
            assert isinstance(refused, MotetError) and refused.failure.kind == "overloaded"
            small.close(utterances[0])
            late = small.open(requests[2])
            chunks = []
            while not late.finished:
                chunks.append(good(small.step([late])[0]))
                if not utterances[1].finished:
                    good(small.step([utterances[1]])[0])
        self.assert_same(joined(chunks), alone, path)
        small.close(utterances[1])
        assert small.cache.free == free

    def test_a_clip_is_heard_once_while_its_voice_is_kept(self, small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        heard, listen = [], small._clips._encode

        def counting(samples: Samples, rate: int) -> Any:
            heard.append(rate)
            return listen(samples, rate)

        monkeypatch.setattr(small._clips, "_encode", counting)
        request = SpeechRequest(("Yes.",), "sha-1", reference=VoiceReference("sha-1", clip(2.0, seed=4), 24_000))
        first, again = (joined(speak(small, request)) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert len(heard) == 1
        assert not np.array_equal(first, joined(speak(small, SpeechRequest(("Yes.",), "ada"))))
        assert len(heard) == 2
        np.testing.assert_array_equal(first, joined(speak(small, request)))
        assert len(heard) == 3

    def test_a_deleted_voice_is_forgotten(self, small: Any) -> None:
        assert _keeps_voices(small)
        request = SpeechRequest(("Yes.",), "sha-2", reference=VoiceReference("sha-2", clip(2.0, seed=5), 24_000))
        first = joined(speak(small, request))
        assert "sha-2" in small._clips._kept
        small.forget_voice("sha-2")
        np.testing.assert_array_equal(first, joined(speak(small, request)))
        assert "sha-2" not in small._clips._kept


def _keeps_voices(engine: object) -> bool:
    """What a replica asks before it passes a deletion on."""
    return isinstance(engine, KeepsVoices)
