"""Pocket-TTS, the third model on the base of language-model voices: the shared properties, and what `generate()` makes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    PocketTTSAudioTokenizerConfig,
    PocketTTSAudioTokenizerModel,
    PocketTTSConfig,
    PocketTTSForConditionalGeneration,
)

from deployments.engines.pocket_tts.engine import PocketEngine, load
from deployments.engines.protocols import EngineSpec, SpeechRequest
from deployments.errors import MotetError
from tests.unit.cloning_engine_properties import PIECES, CloningEngineProperties, joining_one_by_one, write_voices
from tests.unit.forced_path import ForcedPath
from tests.unit.speech_engine_properties import speak, write_golden
from tests.unit.vibevoice_models import MARKS, tokenizer

RATE = 24_000
MOST_FRAMES = 24


def write_tiny(folder: Path) -> Path:
    """A model with two clips, a frame of 240 samples, and a vocabulary of bytes."""
    torch.manual_seed(2)
    head = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "latent_dim": 8,
        "condition_dim": 48,
        "frequency_embedding_size": 16,
    }
    model = PocketTTSForConditionalGeneration(
        PocketTTSConfig(
            flow_head_config=head, vocab_size=264, hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=64, latent_dim=8, frame_rate=100.0, initializer_range=0.15, pad_token_id=259,
            audio_prompt_token_id=260, audio_latent_token_id=261, audio_prompt_bos_token_id=262, audio_bos_token_id=263,
        )
    )  # fmt: skip
    codec = PocketTTSAudioTokenizerModel(
        PocketTTSAudioTokenizerConfig(
            hidden_size=16, num_filters=4, upsampling_ratios=[6, 5], latent_stride=8, upsample_groups=16,
            num_attention_heads=2, num_key_value_heads=2, intermediate_size=32, latent_dim=8, initializer_range=0.2,
        )
    )  # fmt: skip
    with torch.no_grad():
        for network in (model.flow_head, codec):
            for parameter in network.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=parameter[0].numel() ** -0.5)
        model.model.bos_latent.normal_()
        model.eos_head.weight.normal_(std=0.3)
        model.eos_head.bias.fill_(-6.0)
    model.save_pretrained(folder)
    codec.save_pretrained(folder / "audio_tokenizer")
    tokenizer().save(str(folder / "tokenizer.json"))
    write_voices(folder, (0.5, 0.6))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("pocket") / "tiny")


def loaded(folder: Path, **options: object) -> PocketEngine:
    return load(EngineSpec("pocket_tts", str(folder), "cpu", 1, {"most_seconds": MOST_FRAMES / 100} | options))


class TestPocket(CloningEngineProperties):
    golden_name = "pocket_tts"
    tolerance, golden_tolerance, score_tolerance = 1e-4, 4e-4, 1e-4

    @contextmanager
    def following(self, engine: Any, path: ForcedPath) -> Iterator[None]:
        """Every frame's latent, and whether the text ends there: the frame's noise tells it from all others."""
        model, sample, made = engine.model, engine.model.sample_latent, list[torch.Tensor]()
        end = model.eos_head.forward

        def followed(hidden: torch.Tensor, start: torch.Tensor, steps: int) -> torch.Tensor:
            logits = end(hidden)
            own = torch.cat([sample(hidden, start, steps), logits > engine.options.ends_above], dim=1)
            made.append(path.follow(start, own, torch.cat([own[:, :-1], logits], dim=1)))
            return made[-1][:, :-1]

        with pytest.MonkeyPatch.context() as context:
            context.setattr(model, "sample_latent", followed)
            context.setattr(model.eos_head, "forward", lambda _: torch.where(made[-1][:, -1:] > 0.5, 1e9, -1e9))
            yield

    @pytest.fixture
    def engine(self, folder: Path) -> PocketEngine:
        return loaded(folder)

    @pytest.fixture
    def small(self, folder: Path) -> PocketEngine:
        return loaded(folder, slots=2, voices_kept=1)


def test_ragged_joins_and_leaves_are_what_generate_makes(folder: Path) -> None:
    """Without noise, as transformers does unless it is told to sample."""
    engine = loaded(folder, temperature=0.0)
    heard = joining_one_by_one(engine, [engine.open(SpeechRequest((piece,), "ada")) for piece in PIECES])
    model = PocketTTSForConditionalGeneration.from_pretrained(folder).eval()
    codec = PocketTTSAudioTokenizerModel.from_pretrained(folder / "audio_tokenizer").eval()
    lengths = set()
    for number, piece in enumerate(PIECES):
        expected = _generated(model, codec, folder, piece)
        lengths.add(len(expected))
        np.testing.assert_allclose(heard[number], expected, rtol=0, atol=2e-5)
    assert len(lengths) > 2


def _generated(model: Any, codec: Any, folder: Path, piece: str) -> Any:
    from deployments.audio.decode import decode_all

    data = (folder / "voices" / "ada.wav").read_bytes()
    sound = torch.from_numpy(decode_all(data, RATE, mono=True, max_seconds=60.0)[0])
    with torch.no_grad():
        voice = codec.encode(sound[None, None]).latents
        text = tokenizer().encode(piece, add_special_tokens=False).ids
        ids = torch.tensor([[262, *[260] * voice.shape[1], *text, 263]])
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            audio_prompt_latents=voice,
            frames_after_eos=4 if len(piece.split()) <= 4 else 2,
            max_new_tokens=MOST_FRAMES,
            do_sample=False,
            return_dict_in_generate=False,
        )
        return codec.decode(made[0][None]).audio_values[0, 0].clamp(-1, 1).numpy()


def test_the_sound_of_a_piece_comes_in_chunks_that_grow(folder: Path) -> None:
    chunks = speak(loaded(folder), SpeechRequest((PIECES[1],), "ada"))
    frames = [len(chunk.samples) // 240 for chunk in chunks]
    assert frames[:2] == [4, 4] and frames[2] <= 8


def test_a_piece_that_does_not_end_is_stopped_and_says_so(folder: Path) -> None:
    last = speak(loaded(folder, ends_above=1e9), SpeechRequest((PIECES[1],), "ada"))[-1]
    assert last.finish_reason == "length"
    chunks = speak(loaded(folder, ends_above=-1e9), SpeechRequest((PIECES[1],), "ada"))
    assert {chunk.finish_reason for chunk in chunks} == {"stop"}
    assert sum(chunk.tokens for chunk in chunks) < MOST_FRAMES


def test_a_mark_of_the_vocabulary_is_as_long_as_it_is_written(folder: Path) -> None:
    engine = loaded(folder)
    mark = MARKS[-1]
    plain, marked = (engine.begin(engine.open(SpeechRequest((f"Hello{mark}.",), "ada"))).prompt for mark in ("", mark))
    assert len(marked) == len(plain) + len(mark)


def test_a_prompt_that_is_too_long_is_refused_and_holds_no_slot(folder: Path) -> None:
    engine = loaded(folder, longest_prompt=64)
    with pytest.raises(MotetError, match="longest_prompt"):
        engine.open(SpeechRequest(("Short.", "word " * 20), "ada"))
    assert engine.cache.free == engine.options.slots


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        write_golden(loaded(write_tiny(Path(temporary) / "tiny")), TestPocket())
