"""Sopro: the shared properties in float32 and int8, and the same speech as the model's own package."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch

from deployments.engines.graphs import TOLERANCE, Bucket, CompiledBackend, relative_error
from deployments.engines.lm.linear import Precision
from deployments.engines.lm.transformer import PROMPT_BLOCK
from deployments.engines.options import checked
from deployments.engines.protocols import AudioChunk, EngineSpec, SpeechRequest, VoiceReference
from deployments.engines.sopro.engine import SoproEngine, SoproOptions, SoproUtterance, load
from deployments.engines.sopro.levels import OnsetGate, crop_on_pause, trim_end
from deployments.engines.sopro.text import LANGUAGES, SoproTokenizer
from deployments.engines.sopro.voices import SoproVoice, encode_clip, voice_of
from deployments.errors import MotetError
from tests.load.voices_sopro import logits_step
from tests.unit.cloning_engine_properties import PIECES, CloningEngineProperties, clip, joining_one_by_one
from tests.unit.forced_path import ForcedPath
from tests.unit.sopro_models import RATE, write_tiny
from tests.unit.speech_engine_properties import Int8Properties, good, joined, speak, write_golden


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("sopro") / "tiny")


def loaded(folder: Path, **options: object) -> SoproEngine:
    return load(EngineSpec("sopro", str(folder), "cpu", 1, {"trim_silence": False, "kernels": "default"} | options))


@contextmanager
def following(engine: SoproEngine, path: ForcedPath) -> Iterator[None]:
    """Every token, which its random number tells from all others."""
    decoder = engine.networks.decoder
    pick = decoder.pick

    def followed(logits: torch.Tensor, may_end: torch.Tensor, draws: torch.Tensor, sampling: Any) -> torch.Tensor:
        tokens, here = pick(logits, may_end, draws, sampling), draws != 0  # rows that a bucket leaves unused draw 0
        tokens[here] = path.follow(draws[here], tokens[here], logits[here])
        return tokens

    with pytest.MonkeyPatch.context() as context:
        context.setattr(decoder, "pick", followed)
        yield


class Followed:
    """How Sopro is held to a path."""

    def following(self, engine: Any, path: ForcedPath) -> AbstractContextManager[None]:
        return following(engine, path)


class TestFloat32(Followed, CloningEngineProperties):
    golden_name = "sopro"
    tolerance, golden_tolerance, score_tolerance = 1e-5, 1e-4, 1e-4

    @pytest.fixture
    def engine(self, folder: Path) -> SoproEngine:
        return loaded(folder)

    @pytest.fixture
    def small(self, folder: Path) -> SoproEngine:
        return loaded(folder, slots=2, voices_kept=1)


class TestInt8(Followed, Int8Properties):
    golden_name = "sopro_int8"
    error, score_error = 0.015, 0.02  # 0.0096 and 0.0128 were measured

    @pytest.fixture
    def engine(self, folder: Path) -> SoproEngine:
        return loaded(folder, precision="int8")

    @pytest.fixture
    def exact(self, folder: Path) -> SoproEngine:
        return loaded(folder)


def test_prompts_that_are_read_in_parts_change_no_choice(folder: Path) -> None:
    """Only the end of a prompt draws a token, however little of it a step reads."""
    TestInt8().test_batched_equals_single(loaded(folder, precision="int8", prefill_ms=1e-3, step_ms=1e-3))


def test_a_restart_chooses_the_same_kernels_and_says_the_same(folder: Path) -> None:
    request = SpeechRequest((PIECES[1],), "ada", seed=3)
    first, second = (joined(speak(loaded(folder, precision="int8", kernels="measured"), request)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(list(folder.glob("motet-kernels-*.json"))) == 1


@pytest.fixture
def greedy(folder: Path) -> SoproEngine:
    return loaded(folder, temperature=0.0)


def test_an_utterance_that_waits_while_others_step_sounds_the_same(greedy: SoproEngine) -> None:
    """Rows move in the cache when other streams step."""
    requests = [SpeechRequest((piece,), "ada", seed=n) for n, piece in enumerate(PIECES[1:4])]
    alone = [joined(speak(greedy, request)) for request in requests]
    utterances = [greedy.open(request) for request in requests]
    heard: list[list[Any]] = [[] for _ in requests]
    for turn in range(100):
        here = [n for n in range(3) if not utterances[n].finished and (turn + n) % 3]
        for n, result in zip(here, greedy.step([utterances[n] for n in here]), strict=True):
            heard[n].append(good(result))
    for n, samples in enumerate(alone):
        assert utterances[n].finished
        np.testing.assert_allclose(joined(heard[n]), samples, rtol=0, atol=1e-5)


def test_a_batch_that_fails_can_begin_again(greedy: SoproEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step gate tries the halves of a batch that failed as a whole."""
    request = SpeechRequest((PIECES[0],), "ada", seed=1)
    alone = joined(speak(greedy, request))
    utterance, other = greedy.open(request), greedy.open(SpeechRequest((PIECES[1],), "ada"))

    def failing(*_: Any) -> None:
        raise RuntimeError("no memory")

    with monkeypatch.context() as context:
        context.setattr(greedy.networks.decoder, "prefill", failing)
        with pytest.raises(RuntimeError, match="no memory"):
            greedy.step([utterance, other])
    assert greedy.cache.free == greedy.options.slots
    chunks = []
    while not utterance.finished:
        chunks.append(good(greedy.step([utterance])[0]))
    np.testing.assert_array_equal(joined(chunks), alone)


def test_captured_steps_speak_as_plain_ones_do(folder: Path) -> None:
    class Repeating:
        def capture(self, step: Any, buffers: Any, length: int) -> Callable[[], Any]:
            return lambda: step(buffers, length)

    engine = loaded(folder, precision="int8", capture_batches=(4,), capture_lengths=(64, 256))
    request, path = SpeechRequest((PIECES[1],), "ada", seed=5), ForcedPath()
    with following(engine, path):
        plain = joined(speak(engine, request))
        engine.captured.backend = Repeating()
        engine.captured.capture_all()
        engine.captured.counts.replayed = 0
        waiting = engine.open(SpeechRequest((PIECES[0],), "ben"))
        good(engine.step([waiting])[0])
        TestInt8().assert_same(joined(speak(engine, request)), plain, path)
    assert engine.captured.counts.replayed > 30


@pytest.mark.parametrize(
    ("precision", "batch"),  # each costs a compiler many seconds; `motet bench voices` does all of both
    [("float32", 1), ("float32", 16), ("int8", 4), ("int8", 8)],
)
def test_a_recorded_step_is_the_plain_one_within_its_bound_in_every_bucket(
    folder: Path, precision: Precision, batch: int
) -> None:
    """What tokens are drawn of: a draw near a border may fall on either side of it."""
    engine = loaded(folder, precision=precision)
    engine.captured.batches, engine.captured.lengths, engine.captured.backend = [batch], [64], CompiledBackend()
    random, logits = torch.Generator().manual_seed(batch), logits_step(engine, engine.captured)
    for past in (*engine.cache.keys, *engine.cache.values):
        past[:batch, :, :64] = torch.randn(past[:batch, :, :64].shape, generator=random)
    inputs = {
        "tokens": torch.arange(batch),
        "positions": 63 - torch.arange(batch),
        "may_end": torch.zeros(batch, dtype=torch.bool),
        "draws": torch.rand(batch, generator=random),
    }
    with torch.no_grad():
        assert logits.capture(Bucket(batch, 64)), logits.counts.last_failure
        assert relative_error(logits(inputs, 64), logits.step(inputs, 64)) <= TOLERANCE[precision]
    assert logits.counts.replayed == 1


def test_recorded_lengths_come_in_any_order_and_end_where_the_cache_does(folder: Path) -> None:
    engine = loaded(folder, capture_batches=(8, 4), capture_lengths=(9999, 384, 64, 8888))
    assert list(engine.captured.batches) == [4, 8]
    assert list(engine.captured.lengths) == [64, 384, engine.cache.capacity]


@pytest.mark.parametrize("option", ["capture_batches", "capture_lengths"])
@pytest.mark.parametrize("sizes", [(), (0,), (64, -1)])
def test_recorded_sizes_are_positive_and_at_least_one(option: str, sizes: tuple[int, ...]) -> None:
    with pytest.raises(MotetError, match=option):
        checked(SoproOptions, {option: sizes}, "tiny")


def test_int8_logits_stay_within_their_bound(folder: Path) -> None:
    """At most 5 % of the logits' own spread (root mean square), over a prompt and a step."""
    logits = []
    for precision in ("float32", "int8"):
        engine = loaded(folder, precision=precision, temperature=0.0)
        decoder, voice = engine.networks.decoder, engine._clips.of_name("ada")
        with torch.no_grad():
            slot = engine.cache.join()
            prompt = decoder.prompt(voice.style, torch.arange(3, 20), voice.prompt)
            first = decoder.prefill([prompt], [slot], engine.cache)
            place = torch.tensor([slot.position])
            second = decoder.logits(torch.tensor([7]), place, engine.cache, slot.position + 1)
        logits.append(torch.cat([first, second])[:, : decoder.config.bos])
    exact, quantized = logits
    assert (quantized - exact).square().mean().sqrt() < 0.05 * exact.std()


@pytest.mark.parametrize(("precision", "tolerance"), [("int8", 0.0), ("float32", 1e-5)])
def test_a_prompt_read_in_parts_is_the_prompt_read_at_once(folder: Path, precision: str, tolerance: float) -> None:
    """Keys, values and logits: the same bits in eight bits, where a row's products do not depend on its neighbours."""
    engine = loaded(folder, precision=precision)
    decoder, cache = engine.networks.decoder, engine.cache
    long, short = (torch.randn(n, 64, generator=torch.Generator().manual_seed(n)) for n in (3 * PROMPT_BLOCK - 7, 30))
    with torch.no_grad():
        whole, other, parted = (cache.join() for _ in range(3))
        at_once = decoder.prefill([long, short], [whole, other], cache)[:1]
        for part in (long[:PROMPT_BLOCK], long[PROMPT_BLOCK:]):
            in_parts = decoder.prefill([part], [parted], cache)
    torch.testing.assert_close(in_parts, at_once, rtol=0, atol=tolerance)
    assert parted.position == whole.position == len(long)
    for kept in (*cache.keys, *cache.values):
        torch.testing.assert_close(
            kept[parted.row, :, : len(long)], kept[whole.row, :, : len(long)], rtol=0, atol=tolerance
        )


@pytest.mark.parametrize("step_ms", [0.001, 5.0, 1e6])
def test_how_much_a_step_does_is_not_heard(folder: Path, step_ms: float) -> None:
    """A step that has time for nothing makes the least, one with a lot of time everything that is due."""
    requests = [SpeechRequest((piece, "And then?"), "ada", seed=n) for n, piece in enumerate(PIECES[:4])]
    engine = loaded(folder, precision="int8", step_ms=step_ms, prefill_ms=step_ms)
    plain = loaded(folder, precision="int8")
    together = joining_one_by_one(engine, [engine.open(request) for request in requests])
    for request, samples in zip(requests, together, strict=True):
        np.testing.assert_allclose(samples, joined(speak(plain, request)), rtol=0, atol=1e-5)


def test_a_step_without_time_makes_the_sound_of_the_most_urgent_alone(folder: Path) -> None:
    engine = loaded(folder, precision="int8", step_ms=0.001)
    utterances = [engine.open(SpeechRequest((PIECES[4],), "ada", seed=seed)) for seed in range(3)]
    first: list[int] = []
    while len(first) < 3:
        chunks = [good(chunk) for chunk in engine.step(utterances)]
        heard = [utterance for utterance, chunk in zip(utterances, chunks, strict=True) if not chunk.pending]
        assert heard in ([], utterances[:1])
        for utterance in heard:
            first.append(utterance.request.seed)
            utterances.remove(utterance)
    assert first == [0, 1, 2]


def test_voices_come_in_every_language(folder: Path) -> None:
    engine = loaded(folder)
    tags = {voice.id: voice.language for voice in engine.traits.voices}
    assert tags["ada"] == "und" and tags["ada.fr"] == "fr" and len(tags) == 10
    french, english = (joined(speak(engine, SpeechRequest(("Oui.",), voice))) for voice in ("ada.fr", "ada.en"))
    assert not np.array_equal(french, english)


def test_a_language_tag_in_a_text_is_letters(folder: Path) -> None:
    vocabulary = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    tags = {vocabulary.piece_to_id(tag) for tag in LANGUAGES.values()}
    words = SoproTokenizer(vocabulary)
    for language in ("", "en"):
        plain, marked = (words.encode(text, language) for text in ("Yes.", "Yes. <|lang_fr|><|lang_en|> No."))
        assert sum(token in tags for token in plain) == sum(token in tags for token in marked) == len(language) // 2
        assert len(marked) >= len(plain) + len("<|lang_fr|><|lang_en|>")


def test_a_piece_with_too_many_tokens_is_refused_and_holds_no_slot(greedy: SoproEngine) -> None:
    free = greedy.cache.free
    refused = greedy.step([greedy.open(SpeechRequest(("q" * 600,), "ada"))])[0]
    assert isinstance(refused, MotetError) and "the model takes 512" in str(refused)
    assert (refused.failure.kind, refused.failure.param) == ("too_large", "input")
    assert greedy.cache.free == free


def test_a_clip_that_is_too_short_is_refused(greedy: SoproEngine) -> None:
    reference = VoiceReference("short", clip(0.4), RATE)
    with pytest.raises(MotetError, match="5 to 20 s"):
        greedy.open(SpeechRequest(("Yes.",), "short", reference=reference))


@pytest.mark.parametrize("chunk_frames", [32, 66])
def test_chunks_that_do_not_fit_are_refused(folder: Path, chunk_frames: int) -> None:
    with pytest.raises((ValueError, MotetError), match="chunk_frames"):
        loaded(folder, chunk_frames=chunk_frames)


def test_longer_chunks_say_more_at_once(folder: Path) -> None:
    chunks = speak(loaded(folder, chunk_frames=128, temperature=0.0), SpeechRequest((PIECES[1],), "ada"))
    assert chunks[1].seconds == pytest.approx(128 * 256 / RATE)


def test_the_gate_holds_silence_back_and_keeps_a_lead() -> None:
    sound = np.sin(np.arange(RATE) * 0.1).astype(np.float32) * 0.3
    gate = OnsetGate(RATE)
    silence = np.zeros(RATE // 2, np.float32)
    assert len(gate.push(silence)) == 0
    heard = np.concatenate([gate.push(part) for part in np.split(sound, 10)])
    assert len(sound) < len(heard) <= len(sound) + 0.1 * RATE
    ended = trim_end(np.concatenate([sound, np.zeros(RATE, np.float32)]), RATE)
    assert len(sound) < len(ended) <= 1.35 * RATE


def spoken_at(engine: SoproEngine, gain: float) -> list[AudioChunk]:
    """What a voice says that is made so much quieter."""
    utterance, chunks = engine.open(SpeechRequest((PIECES[1],), "ada")), []
    utterance.voice = replace(utterance.voice, gain=utterance.voice.gain * gain)
    while not utterance.finished:
        chunks.append(good(engine.step([utterance])[0]))
    return chunks


def test_the_gate_gives_all_of_a_sound_in_which_it_finds_no_beginning() -> None:
    """Longer than the gate looks back, and even: no part of it stands out."""
    even = np.sin(np.arange(3 * RATE) * 0.1).astype(np.float32) * np.float32(0.3)
    gate = OnsetGate(RATE)
    assert not any(len(gate.push(part)) for part in np.split(even, 6))
    np.testing.assert_array_equal(gate.finish(), even)
    assert gate.is_open and len(gate.finish()) == 0


@pytest.mark.parametrize("silent_seconds", [0.0, 3.0])
def test_the_gate_loses_no_even_sound_that_stands_out_only_after_a_pause(silent_seconds: float) -> None:
    silence, pause = np.zeros(int(silent_seconds * RATE), np.float32), np.zeros(RATE // 2, np.float32)
    even = np.sin(np.arange(4 * RATE) * 0.1).astype(np.float32) * np.float32(0.3)
    gate = OnsetGate(RATE)
    heard = [gate.push(part) for part in np.array_split(np.concatenate([silence, even, pause, even]), 16)]
    assert gate.is_open
    assert 8.5 * RATE <= len(np.concatenate(heard)) <= 8.6 * RATE


def test_a_quiet_piece_is_heard_as_it_is(folder: Path) -> None:
    trimmed, plain = (spoken_at(loaded(folder, trim_silence=trim), 0.05) for trim in (True, False))
    assert 0.001 < np.abs(joined(plain)).max() < 0.005
    np.testing.assert_array_equal(joined(trimmed), joined(plain))
    assert [chunk.finish_reason for chunk in trimmed[-1:]] == ["stop"]


def test_a_piece_too_quiet_to_be_heard_is_silence(folder: Path) -> None:
    chunks = spoken_at(loaded(folder, trim_silence=True), 0.001)
    assert len(joined(chunks)) == 0 and chunks[-1].finish_reason == "silence"


@pytest.mark.parametrize("trim_silence", [True, False])
def test_silence_from_the_start_ends_a_piece_though_the_gate_holds_it_back(folder: Path, trim_silence: bool) -> None:
    engine = loaded(folder, trim_silence=trim_silence, temperature=0.0, runaway={"silent_seconds": 1.0})
    chunks = spoken_at(engine, 0.0)
    assert chunks[-1].finish_reason == "silence"
    assert sum(chunk.tokens for chunk in chunks) < engine.most_tokens / 2
    assert engine.cache.free == engine.options.slots


@pytest.mark.parametrize("seconds", [15.5, 20.0])
def test_a_steady_clip_is_not_cut_to_nothing(seconds: float) -> None:
    """All of it is one pause, which begins where nothing has been said yet."""
    noise = np.random.default_rng(0).standard_normal(int(seconds * RATE)).astype(np.float32) * np.float32(0.1)
    assert len(crop_on_pause(noise, 15.0, RATE)) >= 15.0 * RATE
    noise[: int(0.5 * RATE)] *= 20
    assert len(crop_on_pause(noise, 15.0, RATE)) >= 15.0 * RATE


def test_a_long_clip_is_cut_in_the_pause_near_its_border() -> None:
    speech = np.sin(np.arange(18 * RATE) * 0.1).astype(np.float32) * np.float32(0.3)
    for start, stop in ((0.0, 2.0), (12.0, 14.0)):
        speech[int(start * RATE) : int(stop * RATE)] = 0
    assert len(crop_on_pause(speech, 15.0, RATE)) == pytest.approx(12.15 * RATE, abs=0.05 * RATE)


class TestLikeThePackage:
    """The model's own package on the same weights, noise and clip. Onset gates are open on both sides."""

    @pytest.fixture
    def package(self) -> ModuleType:
        pytest.importorskip("sentencepiece")
        from tests.load.sopro_package import load_package

        return load_package()

    @pytest.fixture
    def theirs(self, package: ModuleType, folder: Path) -> Any:
        return package.SoproTTS.from_pretrained(str(folder))

    @pytest.fixture
    def heard(self, theirs: Any) -> Any:
        """Cut as we cut it: to whole chunks of 16 tokens and the three of the look-ahead."""
        heard = theirs.prepare_reference(ref_audio=torch.from_numpy(clip(2.7))[None], sample_rate=RATE)
        count = (heard.semantic_tokens.shape[1] - 3) // 16 * 16 + 3
        cut = heard.mel.shape[2] // 4 - count
        heard.semantic_tokens = heard.semantic_tokens[:, cut : cut + count]
        heard.mel = heard.mel[:, :, 4 * cut : 4 * (cut + count)]
        return heard

    def test_a_clip_is_heard_alike(self, theirs: Any, heard: Any, greedy: SoproEngine) -> None:
        with torch.no_grad():
            voice = encode_clip(greedy.networks, clip(2.7), RATE)
            speaker = greedy.networks.head.speaker(heard.cond_vec[0])
        assert torch.equal(voice.tokens, heard.semantic_tokens[0, : len(voice.tokens)])
        torch.testing.assert_close(voice.speaker, speaker, rtol=0, atol=1e-3)
        spoken = len(voice.mel) - 30  # behind it the package puts room tone of its own random numbers
        torch.testing.assert_close(voice.mel[:spoken], heard.mel[0].t()[:spoken], rtol=0, atol=1e-3)

    @pytest.mark.parametrize("temperature", [0.0])
    def test_ragged_joins_and_leaves_sound_like_single_streams(
        self, package: ModuleType, theirs: Any, heard: Any, greedy: SoproEngine, temperature: float, monkeypatch: Any
    ) -> None:
        for name, value in (("speech_onset", 0), ("energy_onset", None)):
            monkeypatch.setattr(package.audio_ops, name, lambda *_, _value=value: _value)
        monkeypatch.setattr(package.audio_ops, "trim_trail", lambda wav, _: wav)
        with torch.no_grad():
            tokens, mel = heard.semantic_tokens[0], heard.mel[0].t()
            voice = voice_of(greedy.networks, tokens, mel, heard.cond_vec[0], heard.level_db)
        ours = joining_one_by_one(greedy, _as_streams(voice))
        for seed, piece in enumerate(PIECES):
            _give_noise(monkeypatch, voice, seed)
            heard.prompt_states.clear()
            chunks = theirs.stream(piece, ref=heard, temperature=temperature)
            expected = torch.cat(list(chunks)).numpy()
            assert np.abs(expected).max() > 0.02
            assert len(ours[seed]) == len(expected)
            np.testing.assert_allclose(ours[seed], expected, rtol=0, atol=1e-5)


def _give_noise(monkeypatch: pytest.MonkeyPatch, voice: SoproVoice, seed: int) -> None:
    """The package draws its noise first for the clip, then for the speech: it gets the numbers that ours gets."""
    import sopro.streaming

    random = np.random.default_rng([seed, 0, 1])
    clips = [voice.noise.t()[None].clone()]

    class Torch:
        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

        def randn(self, shape: Sequence[int], **_: Any) -> torch.Tensor:
            if clips:
                return clips.pop()
            drawn = random.standard_normal((shape[2], shape[1]), dtype=np.float32)
            return torch.from_numpy(drawn).t()[None]

    monkeypatch.setattr(sopro.streaming, "torch", Torch())


def _as_streams(voice: SoproVoice) -> list[SoproUtterance]:
    """Every piece as a stream of its own."""
    return [
        SoproUtterance(SpeechRequest((piece,), "", seed=seed), voice, "", (piece,)) for seed, piece in enumerate(PIECES)
    ]


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        tiny = write_tiny(Path(temporary) / "tiny")
        write_golden(loaded(tiny), TestFloat32())
        write_golden(loaded(tiny, precision="int8"), TestInt8())
