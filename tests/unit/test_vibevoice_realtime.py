"""VibeVoice-Realtime: the shared properties in each precision, and the same audio as mlx-audio's port."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from deployments.engines.protocols import AudioChunk, EngineSpec, Samples, SpeechRequest
from deployments.engines.vibevoice_realtime.config import config_of, read
from deployments.engines.vibevoice_realtime.engine import RealtimePiece, VibeVoiceRealtimeEngine, load
from deployments.errors import MotetError
from tests.load.voices_vibevoice_realtime import never_ending
from tests.unit import vibevoice_realtime_models as tiny
from tests.unit.cloning_engine_properties import PIECES, joining_one_by_one
from tests.unit.forced_path import ForcedPath
from tests.unit.speech_engine_properties import (
    Int8Properties,
    SpeechEngineProperties,
    good,
    joined,
    speak,
    write_golden,
)
from tests.unit.vibevoice_models import tokenizer

RATE = 24_000
MOST_FRAMES = 30
ADA, BEN = tiny.VOICES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_tiny(tmp_path_factory.mktemp("vibevoice_realtime") / "tiny")


def loaded(folder: Path, *, frames: int = MOST_FRAMES, **options: object) -> VibeVoiceRealtimeEngine:
    given = {"most_seconds": frames * tiny.HOP / RATE, "longest_prompt": 200, "kernels": "default"} | options
    return load(EngineSpec("vibevoice_realtime", str(folder), "cpu", 1, given))


def endless(engine: VibeVoiceRealtimeEngine) -> VibeVoiceRealtimeEngine:
    """No frame is the last one."""
    never_ending(engine.networks)
    return engine


@contextmanager
def following(engine: VibeVoiceRealtimeEngine, path: ForcedPath) -> Iterator[None]:
    """Whether each frame is the last one, and the latent that the model reads again: its noise tells it from all others."""
    networks, plain = engine.networks, engine.frame_step
    latent, own = networks.latent, list[torch.Tensor]()

    def chosen(hidden: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        own.append(latent(hidden, noise))
        known = [path.decisions.get(row.numpy().tobytes()) or path.coming for row in noise]
        rows = [torch.tensor(one.choice[1:]) if one else row for one, row in zip(known, own[-1], strict=True)]
        return torch.stack(rows).float()

    def step(inputs: Any, length: int) -> torch.Tensor:
        packed = plain(inputs, length).clone()
        ends = packed[:, :1]
        decision = torch.cat([(ends > 0).float() - 0.5, own[-1]], dim=1)
        packed[:, :1] = path.follow(inputs["noise"], decision, torch.cat([ends, own[-1]], dim=1))[:, :1]
        return packed

    with pytest.MonkeyPatch.context() as context:
        context.setattr(networks, "latent", chosen)
        context.setattr(engine, "frame_step", step)
        yield


class Followed:
    """How VibeVoice-Realtime is held to a path."""

    def following(self, engine: Any, path: ForcedPath) -> AbstractContextManager[None]:
        return following(engine, path)


class TestFloat32(Followed, SpeechEngineProperties):
    golden_name = "vibevoice_realtime"
    tolerance, golden_tolerance, score_tolerance = 1e-4, 4e-4, 1e-4

    @pytest.fixture
    def engine(self, folder: Path) -> VibeVoiceRealtimeEngine:
        return loaded(folder)


class TestInt8(Followed, Int8Properties):
    golden_name = "vibevoice_realtime_int8"
    error, score_error = 0.009, 0.13  # 0.0060 and 0.087 were measured

    @pytest.fixture
    def engine(self, folder: Path) -> VibeVoiceRealtimeEngine:
        return loaded(folder, precision="int8")

    @pytest.fixture
    def exact(self, folder: Path) -> VibeVoiceRealtimeEngine:
        return loaded(folder)


class TestLikeMlxAudio:
    """`generate()` of mlx-audio's port on the same weights, voices and noise, one stream at a time; ours join and leave a
    batch."""

    @pytest.mark.parametrize("guidance", [1.0, 1.5])
    def test_ragged_joins_and_leaves_sound_like_single_streams(
        self, guidance: float, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("mlx_audio")
        theirs, ours = _port(folder), loaded(folder, guidance=guidance, solver_steps=7)
        voices = [(ADA, BEN)[number % 2] for number in range(len(PIECES))]
        requests = [SpeechRequest((piece,), voices[n], seed=n) for n, piece in enumerate(PIECES)]
        sounds = joining_one_by_one(ours, [ours.open(request) for request in requests])
        lengths = set()
        for number, (piece, voice) in enumerate(zip(PIECES, voices, strict=True)):
            expected = _generated(theirs, piece, voice, number, guidance, monkeypatch)
            lengths.add(len(expected))
            assert 0.1 < np.abs(expected).max() <= 1
            assert len(sounds[number]) == len(expected)
            np.testing.assert_allclose(sounds[number], expected, rtol=0, atol=2e-4)
        assert len(lengths) > 2  # they end by themselves


def _port(folder: Path) -> Any:
    """mlx-audio's model with the weights of the folder, all of which it knows."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_audio.tts.models.vibevoice.config import ModelConfig
    from mlx_audio.tts.models.vibevoice.vibevoice import Model

    model = Model(ModelConfig.from_dict({**tiny.CONFIG, "model_path": str(folder)}))
    published = mx.load(str(folder / "model.safetensors"))
    known = model.sanitize(published)
    assert len(known) == len(published)
    absent = {name for name, _ in tree_flatten(model.parameters())} - {*known}
    assert absent == {"tts_language_model.embed_tokens.weight"}  # nothing reads it
    model.load_weights(list(known.items()), strict=False)
    model.tokenizer = _Words(tokenizer())
    return model


class _Words:
    """The tokenizer as mlx-audio calls it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)


def _generated(
    theirs: Any, piece: str, voice: str, seed: int, guidance: float, monkeypatch: pytest.MonkeyPatch
) -> Samples:
    import mlx.core as mx

    noise = iter(np.random.default_rng([seed, 0]).standard_normal((MOST_FRAMES, 1, 8), dtype=np.float32))
    with monkeypatch.context() as context:
        context.setattr(mx.random, "normal", lambda shape, dtype: mx.array(next(noise)))
        results = list(theirs.generate(piece, voice=voice, cfg_scale=guidance, ddpm_steps=7, max_tokens=MOST_FRAMES))
    return np.concatenate([np.array(result.audio) for result in results])


def test_chunks_of_any_size_give_the_same_sound(folder: Path) -> None:
    request = SpeechRequest((PIECES[-1],), ADA, seed=3)
    one, *others = (joined(speak(loaded(folder, chunk_frames=count), request)) for count in (1, 2, 3, 6))
    for other in others:
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)


def test_text_is_read_window_by_window_while_sound_leaves(folder: Path) -> None:
    engine = endless(loaded(folder, chunk_frames=6))
    utterance = engine.open(SpeechRequest(("A piece of text of many windows.",), ADA))
    left = []
    for _ in range(3):
        assert len(good(engine.step([utterance])[0]).samples) == 6 * tiny.HOP
        assert utterance.piece is not None
        left.append(len(utterance.piece.text))
    assert left == [28, 23, 18]


def test_the_end_of_a_text_does_not_change_what_was_said_before(folder: Path) -> None:
    """Of two texts that begin alike, the first windows sound alike: text may arrive later than sound leaves."""
    first, other = (
        joined(speak(endless(loaded(folder)), SpeechRequest((f"0123456789{end}",), BEN, seed=1)))
        for end in ("abcdef", " and more.")
    )
    same = 2 * 6 * tiny.HOP
    np.testing.assert_allclose(first[:same], other[:same], rtol=0, atol=1e-5)
    assert not np.allclose(first[same : same + tiny.HOP], other[same : same + tiny.HOP], atol=1e-3)


def test_smaller_numbers_begin_as_float32_does(folder: Path) -> None:
    """The first frame, before what was rounded is heard again."""
    request = SpeechRequest((PIECES[1],), ADA)
    first = [
        joined(speak(loaded(folder, precision=precision, chunk_frames=1), request))[: tiny.HOP]
        for precision in ("float32", "bfloat16", "int8")
    ]
    for other in first[1:]:
        np.testing.assert_allclose(other, first[0], rtol=0, atol=2e-2)


class TestVoices:
    def test_they_are_named_after_files_and_languages(self, folder: Path) -> None:
        traits = loaded(folder).traits
        assert {voice.id: voice.language for voice in traits.voices} == {ADA: "en", BEN: "und"}
        assert (traits.default_voice, traits.clones, traits.most_speakers) == (ADA, False, 1)

    def test_each_has_its_own_sound(self, folder: Path) -> None:
        engine = loaded(folder)
        ada, ben = (joined(speak(engine, SpeechRequest(("Yes.",), voice))) for voice in (ADA, BEN))
        assert not np.allclose(ada[: tiny.HOP], ben[: tiny.HOP], atol=1e-3)

    def test_a_model_without_voices_says_how_to_convert_them(self, tmp_path: Path) -> None:
        written = tiny.write_tiny(tmp_path / "tiny")
        for file in (written / "voices").iterdir():
            file.unlink()
        with pytest.raises(MotetError, match="convert_vibevoice_voices"):
            loaded(written)

    @pytest.mark.parametrize("spoiled", ["absent", "shape", "layers", "not finite", "no file", "no tensors"])
    def test_a_file_that_cannot_be_used_is_refused_by_name(self, spoiled: str, tmp_path: Path) -> None:
        written = tiny.write_tiny(tmp_path / "tiny")
        engine, file = loaded(written), written / "voices" / f"{ADA}.safetensors"
        _spoil(file, spoiled)
        with pytest.raises(MotetError, match=ADA) as refused:
            engine.open(SpeechRequest(("Yes.",), ADA))
        assert (refused.value.failure.kind, refused.value.failure.param) == ("not_found", "voice")
        assert len(speak(engine, SpeechRequest(("Yes.",), BEN)))

    def test_of_many_the_latest_are_kept(self, folder: Path) -> None:
        engine = loaded(folder, voices_kept=1)
        first = engine.voice_of(SpeechRequest(("Yes.",), ADA))[0]
        assert engine.voice_of(SpeechRequest(("Yes.",), ADA))[0] is first
        engine.voice_of(SpeechRequest(("Yes.",), BEN))
        assert engine.voice_of(SpeechRequest(("Yes.",), ADA))[0] is not first


def _spoil(file: Path, how: str) -> None:
    tensors = load_file(file)
    if how == "absent":
        del tensors["neg_tts_lm_value_2"]
    elif how == "shape":
        tensors["lm_key_1"] = tensors["lm_key_1"][:, :, :-1].contiguous()
    elif how == "layers":
        tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("_2")}
    elif how == "not finite":
        tensors["tts_lm_key_0"][0, 0, 0, 0] = float("nan")
    file.unlink()
    if how == "no tensors":
        file.write_bytes(b"nothing")
    elif how != "no file":
        save_file(tensors, file)


def test_marks_in_a_text_are_plain_text(folder: Path) -> None:
    tokens = loaded(folder)._tokenizer.tokens("Hello<|vision_pad|> ")
    assert len(tokens) == len("Hello<|vision_pad|>\n") and max(tokens) < 256


def test_a_full_engine_refuses_and_a_leaver_makes_room(folder: Path) -> None:
    engine = loaded(folder, slots=1)
    first, second = (engine.open(SpeechRequest((PIECES[0],), ADA)) for _ in range(2))
    good(engine.step([first])[0])
    refused = engine.step([first, second])[1]
    assert isinstance(refused, MotetError) and refused.failure.kind == "overloaded"
    engine.close(first)
    assert _free(engine) == (1, 2)


def _free(engine: VibeVoiceRealtimeEngine) -> tuple[int, int]:
    """Rows of the lower and the upper decoder."""
    return engine.caches.lower.free, engine.caches.upper.free


def test_a_piece_that_is_too_long_is_refused_and_holds_no_slot(folder: Path) -> None:
    engine = loaded(folder)
    with pytest.raises(MotetError, match="longest_prompt"):
        engine.open(SpeechRequest(("Short.", "word " * 200), ADA))
    assert _free(engine) == (32, 64)


def test_a_piece_that_does_not_end_is_stopped_and_says_so(folder: Path) -> None:
    engine = loaded(folder, frames=2)
    chunks = speak(engine, SpeechRequest((PIECES[-1],), ADA))
    assert chunks[-1].finish_reason == "length" and len(joined(chunks)) == 2 * tiny.HOP


def test_unused_rows_write_to_scratch_positions_alone(folder: Path) -> None:
    engine = loaded(folder, slots=2)
    good(engine.step([engine.open(SpeechRequest((PIECES[1],), ADA, seed=1))])[0])
    caches = [*engine.caches.lower.keys, *engine.caches.upper.keys]
    kept = [cache.clone() for cache in caches]
    for step in (engine.window_step, engine.frame_step):
        neutral = {name: torch.full((2, *one.shape), one.neutral, dtype=one.dtype) for name, one in step.inputs.items()}
        assert step.step(neutral, 16).isfinite().all()
    for before, after in zip(kept, caches, strict=True):
        torch.testing.assert_close(after[:, :, :-1], before[:, :, :-1], rtol=0, atol=0)


class _Repeating:
    """Captures nothing, and runs the step again."""

    def capture(self, step: Any, buffers: Any, length: int) -> Callable[[], Any]:
        return lambda: step(buffers, length)


def test_captured_steps_speak_as_plain_ones_do(folder: Path) -> None:
    engine = loaded(folder, capture_batches=(4,), capture_lengths=(230,))
    request = SpeechRequest((PIECES[1],), ADA, seed=5)
    plain = joined(speak(engine, request))
    before = engine.captured.counts
    for step in (engine.window_step, engine.frame_step):
        step.backend = _Repeating()
        step.capture_all()
    waiting = engine.open(SpeechRequest((PIECES[0],), BEN))
    good(engine.step([waiting])[0])
    np.testing.assert_allclose(joined(speak(engine, request)), plain, rtol=0, atol=1e-4)
    counts = engine.captured.counts
    assert (before.replayed, counts.captures) == (0, 2)
    frames = len(plain) // tiny.HOP
    assert counts.replayed >= frames + frames // 6 and counts.plain == before.plain


def test_thirty_two_streams_join_leave_and_are_cancelled_without_a_trace(folder: Path) -> None:
    """Some are closed in the middle; what the others say is what they say alone, and nothing is held afterwards."""
    engine, path = loaded(folder), ForcedPath()
    requests = [SpeechRequest((PIECES[n % len(PIECES)],), (ADA, BEN)[n % 2], seed=n) for n in range(48)]
    with following(engine, path):
        alone = {n: joined(speak(engine, requests[n])) for n in range(0, 48, 7)}
        heard = _with_leavers(engine, requests, stays=alone)
    assert _free(engine) == (32, 64) and path.deviation <= 1e-4
    for number, samples in alone.items():
        np.testing.assert_allclose(joined(heard[number]), samples, rtol=0, atol=1e-4)


def _with_leavers(
    engine: VibeVoiceRealtimeEngine, requests: list[SpeechRequest], stays: Collection[int]
) -> dict[int, list[AudioChunk]]:
    """Speaks all requests, 32 at a time; any but those that stay are closed at random."""
    random, most = np.random.default_rng(0), 0
    waiting, here = list(range(len(requests))), dict[int, Any]()
    heard: dict[int, list[AudioChunk]] = {number: [] for number in waiting}
    while waiting or here:
        while waiting and len(here) < 32:
            number = waiting.pop(0)
            here[number] = engine.open(requests[number])
        most = max(most, len(here))
        for number, result in zip(here, engine.step(list(here.values())), strict=True):
            heard[number].append(good(result))
        leaver = next((n for n in here if n not in stays and random.random() < 0.2), None)
        if leaver is not None:
            engine.close(here[leaver])
        here = {number: utterance for number, utterance in here.items() if not utterance.finished}
    assert most == 32
    return heard


@pytest.mark.long
def test_a_long_text_holds_one_piece_at_a_time(folder: Path) -> None:
    engine = endless(loaded(folder, frames=8))
    pieces = tuple(PIECES[n % len(PIECES)] for n in range(80))
    utterance, alive = engine.open(SpeechRequest(pieces, ADA)), dict[int, tuple[int, int]]()
    while not utterance.finished:
        chunk = good(engine.step([utterance])[0])
        if chunk.index in (20, 70) and utterance.piece is not None:
            alive.setdefault(chunk.index, _alive())
    assert alive[70][0] == alive[20][0] == 1
    assert alive[70][1] <= alive[20][1] + 2
    assert _free(engine) == (32, 64) and _alive()[0] == 0


def _alive() -> tuple[int, int]:
    """Pieces and tensors."""
    gc.collect()
    kinds = [type(it) for it in gc.get_objects()]
    return kinds.count(RealtimePiece), kinds.count(torch.Tensor)


class TestConfig:
    def test_another_model_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(MotetError, match="contains no VibeVoice-Realtime model"):
            read(tmp_path)

    @pytest.mark.parametrize("part", ["decoder_config", "tts_backbone_num_hidden_layers"])
    def test_an_absent_key_is_named(self, part: str) -> None:
        with pytest.raises(MotetError, match=part):
            config_of({name: value for name, value in tiny.CONFIG.items() if name != part})

    @pytest.mark.parametrize(("key", "value"), [("ddpm_beta_schedule", "linear"), ("ddpm_num_steps", 500)])
    def test_another_noise_schedule_is_refused(self, key: str, value: object) -> None:
        head = tiny.CONFIG["diffusion_head_config"] | {key: value}
        with pytest.raises(MotetError, match=key):
            config_of(tiny.CONFIG | {"diffusion_head_config": head})

    def test_depths_may_be_given_for_the_decoder(self) -> None:
        codec = tiny.CONFIG["acoustic_tokenizer_config"]
        given = codec | {"decoder_depths": "2-1-1-1", "decoder_ratios": codec["encoder_ratios"]}
        assert config_of(tiny.CONFIG | {"acoustic_tokenizer_config": given}) == config_of(tiny.CONFIG)

    def test_a_folder_without_a_tokenizer_is_refused(self, tmp_path: Path) -> None:
        written = tiny.write_tiny(tmp_path / "tiny")
        (written / "tokenizer.json").unlink()
        with pytest.raises(MotetError, match="Qwen2.5-0.5B"):
            loaded(written)

    def test_chunks_must_divide_the_window_of_frames(self, folder: Path) -> None:
        with pytest.raises(MotetError, match="chunk_frames"):
            loaded(folder, chunk_frames=4)

    def test_the_published_sizes_are_read(self, tmp_path: Path) -> None:
        from tests.load.voices_vibevoice_realtime import FULL, sizes

        (tmp_path / "config.json").write_text(json.dumps(sizes(FULL)))
        config = read(tmp_path)
        assert (config.lower.layers, config.upper.layers, config.codec.hop, config.frame_rate) == (4, 20, 3200, 7.5)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        written = tiny.write_tiny(Path(temporary) / "tiny")
        write_golden(loaded(written), TestFloat32())
        write_golden(loaded(written, precision="int8"), TestInt8())
