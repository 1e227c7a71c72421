"""Qwen3-TTS: the shared properties in each precision, and the same codes and audio as its package."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deployments.engines.lm.sampler import choose
from deployments.engines.protocols import EngineSpec, SpeechRequest
from deployments.engines.qwen3_tts.config import config_of, read
from deployments.engines.qwen3_tts.engine import Qwen3TtsEngine, Qwen3TtsPiece, load
from deployments.errors import MotetError
from tests.unit import qwen3_tts_models as tiny
from tests.unit.cloning_engine_properties import PIECES, joining_one_by_one
from tests.unit.forced_path import NEVER, ForcedPath
from tests.unit.qwen3_tts_reference import FRAMES, cases
from tests.unit.speech_engine_properties import (
    GOLDEN,
    Int8Properties,
    SpeechEngineProperties,
    good,
    joined,
    speak,
    write_golden,
)

TAGS = {"auto": "", "english": ".en", "chinese": ".zh"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_tiny(tmp_path_factory.mktemp("qwen3_tts") / "tiny")


@pytest.fixture(scope="module")
def greedy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_tiny(tmp_path_factory.mktemp("qwen3_tts") / "greedy", **tiny.GREEDY)


def loaded(folder: Path, *, frames: int = 10, **options: object) -> Qwen3TtsEngine:
    given = {"most_seconds": frames * tiny.HOP / 24_000, "longest_prompt": 200, "kernels": "default"} | options
    return load(EngineSpec("qwen3_tts", str(folder), "cpu", 1, given))


@contextmanager
def following(engine: Qwen3TtsEngine, path: ForcedPath) -> Iterator[None]:
    """Every code is one decision; its random number tells it from all others."""

    def chosen(logits: torch.Tensor, draws: torch.Tensor, sampling: Any) -> torch.Tensor:
        scores = torch.full((len(logits), engine.config.codes), 2 * NEVER)
        scores[:, : logits.shape[1]] = logits
        return path.follow(draws[:, None], choose(logits, draws, sampling), scores)

    with pytest.MonkeyPatch.context() as context:
        context.setattr(engine.networks, "choose", chosen)
        yield


class Followed:
    """How Qwen3-TTS is held to a path."""

    def following(self, engine: Any, path: ForcedPath) -> AbstractContextManager[None]:
        return following(engine, path)


class TestFloat32(Followed, SpeechEngineProperties):
    golden_name = "qwen3_tts"
    tolerance, golden_tolerance, score_tolerance = 1e-4, 1e-3, 1e-4

    @pytest.fixture
    def engine(self, folder: Path) -> Qwen3TtsEngine:
        return loaded(folder)


class TestInt8(Followed, Int8Properties):
    golden_name = "qwen3_tts_int8"
    error, score_error = 0.09, 0.17  # 0.056 and 0.107 were measured

    @pytest.fixture
    def engine(self, folder: Path) -> Qwen3TtsEngine:
        return loaded(folder, precision="int8", frames=5)

    @pytest.fixture
    def exact(self, folder: Path) -> Qwen3TtsEngine:
        return loaded(folder, frames=5)


class TestLikeThePackage:
    """Codes and audio of the package, which `qwen3_tts_reference.py` stored."""

    def test_streams_that_join_one_by_one_speak_its_codes(self, greedy: Path) -> None:
        kept = np.load(GOLDEN / "qwen3_tts_package.npz")
        engine, codes = loaded(greedy, frames=FRAMES), _Codes()
        with codes.of(engine):
            sounds = joining_one_by_one(engine, [engine.open(_request(case)) for case in cases()])
        for number, sound in enumerate(sounds):
            expected = kept[f"samples_{number}"]
            assert 0.1 < np.abs(expected).max() <= 1
            np.testing.assert_array_equal(codes.by_piece[number], kept[f"codes_{number}"])
            assert len(sound) == len(expected)
            np.testing.assert_allclose(sound, expected, rtol=0, atol=2e-4)

    def test_the_codes_differ_by_speaker_language_and_instructions(self) -> None:
        kept = np.load(GOLDEN / "qwen3_tts_package.npz")
        assert len({kept[f"codes_{number}"].tobytes() for number in range(len(cases()))}) == len(cases())


def _request(case: tuple[str, str, str, str]) -> SpeechRequest:
    text, speaker, language, instructions = case
    return SpeechRequest((text,), f"{speaker}{TAGS[language]}", instructions=instructions)


class _Codes:
    """The codes of each piece, in the order in which pieces begin."""

    def __init__(self) -> None:
        self._pieces: list[Qwen3TtsPiece] = []
        self._frames: list[list[list[int]]] = []

    @property
    def by_piece(self) -> list[Any]:
        return [np.array(frames[:FRAMES]) for frames in self._frames]

    @contextmanager
    def of(self, engine: Qwen3TtsEngine) -> Iterator[None]:
        frames = engine._frames

        def kept(pieces: list[Qwen3TtsPiece]) -> Any:
            made = frames(pieces)
            for number, piece in enumerate(pieces):
                self._of(piece).extend(one.codes[number].tolist() for one in made)
            return made

        with pytest.MonkeyPatch.context() as context:
            context.setattr(engine, "_frames", kept)
            yield

    def _of(self, piece: Qwen3TtsPiece) -> list[list[int]]:
        if all(piece is not known for known in self._pieces):
            self._pieces.append(piece)
            self._frames.append([])
        return self._frames[[piece is known for known in self._pieces].index(True)]


def test_chunks_of_any_size_give_the_same_sound(folder: Path) -> None:
    request = SpeechRequest((PIECES[0],), "anna", seed=3)
    one, many = (joined(speak(loaded(folder, chunk_frames=count), request)) for count in (1, 7))
    np.testing.assert_allclose(one, many, rtol=0, atol=1e-5)


def test_unused_rows_write_to_scratch_positions_alone(folder: Path) -> None:
    engine = loaded(folder, slots=2)
    utterance = engine.open(SpeechRequest((PIECES[1],), "ben", seed=1))
    good(engine.step([utterance])[0])
    kept = [cache.clone() for cache in (*engine.cache.keys, *engine.caches.codec.keys)]
    inputs = engine.networks.frame_inputs(engine.caches)
    neutral = {name: torch.full((2, *one.shape), one.neutral, dtype=one.dtype) for name, one in inputs.items()}
    assert engine._frame(neutral, 16).isfinite().all()
    for before, after in zip(kept, (*engine.cache.keys, *engine.caches.codec.keys), strict=True):
        torch.testing.assert_close(after[:, :, :-1], before[:, :, :-1], rtol=0, atol=0)


def test_the_voices_are_the_speakers_in_each_language(folder: Path) -> None:
    traits = loaded(folder).traits
    voices = {voice.id: voice.language for voice in traits.voices}
    assert voices == {"anna": "und", "ben": "und", "anna.en": "en", "ben.en": "en", "anna.zh": "zh", "ben.zh": "zh"}
    assert (traits.default_voice, traits.clones) == ("anna", False)
    assert traits.follows("Happily!")


def test_marks_in_a_text_are_plain_text(folder: Path) -> None:
    tokens = loaded(folder)._prompts.tokens("<|im_end|>")
    assert len(tokens) == len("<|im_end|>") and max(tokens) < tiny.TURN_BEGIN


def test_a_full_engine_refuses_and_a_leaver_makes_room(folder: Path) -> None:
    engine = loaded(folder, slots=1)
    first, second = (engine.open(SpeechRequest((PIECES[0],), "anna")) for _ in range(2))
    good(engine.step([first])[0])
    refused = engine.step([first, second])[1]
    assert isinstance(refused, MotetError) and refused.failure.kind == "overloaded"
    engine.close(first)
    assert (engine.cache.free, engine.caches.codec.free) == (1, 1)


class TestConfig:
    def test_another_model_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(MotetError, match="contains no Qwen3-TTS model"):
            read(tmp_path)

    @pytest.mark.parametrize("part", ["talker_config", "tts_pad_token_id"])
    def test_an_absent_key_is_named(self, part: str, tmp_path: Path) -> None:
        written = tiny.write_tiny(tmp_path / "tiny")
        (written / "config.json").write_text(_without(part))
        with pytest.raises(MotetError, match=part):
            read(written)

    @pytest.mark.parametrize("values", [{"tokenizer_type": "qwen3_tts_tokenizer_25hz"}, {"tts_model_type": "base"}])
    def test_another_kind_of_model_is_refused(self, values: dict[str, str], tmp_path: Path) -> None:
        written = tiny.write_tiny(tmp_path / "tiny")
        (written / "config.json").write_text(json.dumps(tiny.MODEL | values))
        with pytest.raises(MotetError, match=next(iter(values.values()))):
            read(written)

    def test_another_number_of_codes_than_the_codecs_is_refused(self) -> None:
        talker = tiny.TALKER | {"num_code_groups": tiny.GROUPS + 1}
        with pytest.raises(MotetError, match="different numbers of codes: 4, 5"):
            config_of(tiny.MODEL | {"talker_config": talker}, {}, tiny.CODEC)

    def test_the_smallest_model_ignores_instructions(self) -> None:
        assert not config_of(tiny.MODEL | {"tts_model_size": "0b6"}, {}, tiny.CODEC).follows


def _without(key: str) -> str:
    return json.dumps({name: value for name, value in tiny.MODEL.items() if name != key})


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        written = tiny.write_tiny(Path(place) / "tiny")
        write_golden(loaded(written), TestFloat32())
        write_golden(loaded(written, precision="int8", frames=5), TestInt8())
