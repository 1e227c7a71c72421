"""The Kokoro speech engine: a step speaks the next piece of every utterance, as one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from deployments.engines.kokoro.int8 import with_int8_convolutions
from deployments.engines.kokoro.model import KokoroInput, KokoroModel, load_model
from deployments.engines.kokoro.phonemes import LANGUAGES, Phonemizers, language_of
from deployments.engines.kokoro.vocoder import HARMONICS, SAMPLE_RATE
from deployments.engines.protocols import AudioChunk, EngineSpec, Samples, SpeechRequest, SpeechTraits, Voice
from deployments.engines.speech import SILENCE, PieceUtterance, cut_at_spaces, unknown_voice
from deployments.errors import fail
from deployments.text import voice_mix

PADDING: Mapping[str, float] = {"cpu": 0.0, "cuda": 0.5}
"""The share of padding that the vocoder accepts for a larger batch. A CPU is fully used by one row."""

PRECISIONS = ("float32", "int8")


@dataclass(slots=True, eq=False, kw_only=True)
class KokoroUtterance(PieceUtterance):
    """The state of a stream. `lines` are the remaining phonemes of the current piece.

    A piece with more phonemes than the model takes at once is spoken in several steps.
    """

    pack: Tensor
    language: str
    lines: tuple[str, ...] = ()
    spoken_lines: int = 0


class KokoroEngine:
    """Speaks with every voice in the folder's `voices`, and with mixtures of them."""

    def __init__(self, model: KokoroModel, voices: Mapping[str, Tensor], device: str, padding: float) -> None:
        self._model = model.to(device)
        self._voices = voices
        self._padding = padding
        self._phonemes = Phonemizers()

    @property
    def traits(self) -> SpeechTraits:
        """24 kHz."""
        voices = tuple(Voice(name, LANGUAGES[language_of(name)].tag) for name in self._voices)
        return SpeechTraits(SAMPLE_RATE, voices, voices[0].id, min_speed=0.5, max_speed=2.0, mixes=True)

    def open(self, request: SpeechRequest) -> KokoroUtterance:
        """Raises `MotetError` (not_found) for an unknown voice."""
        mix = voice_mix.parse(request.voice, self._known)
        language = language_of(max(mix.shares, key=lambda share: share[1])[0])
        pack = sum((share * self._voices[name] for name, share in mix.shares), start=torch.zeros(1))
        return KokoroUtterance(request=request, pack=pack, language=language)

    def first_cost(self, request: SpeechRequest) -> float:
        """Characters of the first piece."""
        return float(len(request.pieces[0]))

    def cost(self, utterance: KokoroUtterance) -> float:
        """Characters of the next piece, to which its duration is nearly proportional."""
        return float(len(utterance.pieces[utterance.position]))

    def step(self, utterances: Sequence[KokoroUtterance]) -> list[AudioChunk | Exception]:
        """Speaks the next piece of each utterance."""
        prepared = [self._prepared(utterance) for utterance in utterances]
        spoken = [(utterance, line) for utterance, line in zip(utterances, prepared, strict=True) if _is_sound(line)]
        sounds = iter(
            self._sounds([u for u, _ in spoken], [line for _, line in spoken if isinstance(line, KokoroInput)])
        )
        return [
            line if isinstance(line, Exception) else _advance(utterance, next(sounds) if _is_sound(line) else SILENCE)
            for utterance, line in zip(utterances, prepared, strict=True)
        ]

    def close(self, utterance: KokoroUtterance) -> None:
        """Drops the pieces that were not spoken."""
        utterance.closed = True
        utterance.pieces = utterance.lines = ()

    def _known(self, name: str) -> str:
        if name not in self._voices:
            raise unknown_voice(name, self._voices)
        return name

    def _prepared(self, utterance: KokoroUtterance) -> KokoroInput | Exception | None:
        """The model's input for the utterance's next line; None if the line has no phonemes of the vocabulary."""
        try:
            if not utterance.lines:
                phonemes = self._phonemes.of(utterance.pieces[utterance.position], utterance.language)
                utterance.lines = cut(phonemes, self._model.most_tokens)
            return self._line(utterance, utterance.lines[0]) if utterance.lines else None
        except Exception as error:
            utterance.closed = True
            return error

    def _line(self, utterance: KokoroUtterance, phonemes: str) -> KokoroInput | None:
        vocabulary = self._model.vocabulary
        tokens = [vocabulary[phoneme] for phoneme in phonemes if phoneme in vocabulary]
        if not tokens:
            return None
        # A voice has one style for each number of phonemes.
        style = utterance.pack[min(len(phonemes), len(utterance.pack)) - 1, 0]
        return KokoroInput(tokens, style, utterance.request.speed)

    def _sounds(self, utterances: Sequence[KokoroUtterance], lines: Sequence[KokoroInput]) -> list[Samples]:
        if not lines:
            return []
        seeds = [_seed(utterance) for utterance in utterances]

        def noise(row: int, samples: int) -> Tensor:
            drawn = np.random.default_rng(seeds[row]).standard_normal((samples, HARMONICS), dtype=np.float32)
            return torch.from_numpy(drawn)

        sounds = self._model(lines, noise, self._padding)
        return [np.clip(sound.float().cpu().numpy(), -1.0, 1.0) for sound in sounds]


def _is_sound(line: KokoroInput | Exception | None) -> bool:
    return isinstance(line, KokoroInput)


def _seed(utterance: KokoroUtterance) -> list[int]:
    """A line's noise depends only on the seed and the line's index, so it sounds the same in any batch."""
    return [utterance.request.seed, utterance.index, utterance.spoken_lines]


def _advance(utterance: KokoroUtterance, samples: Samples) -> AudioChunk:
    position = utterance.position
    text = utterance.pieces[position]
    utterance.lines = utterance.lines[1:]
    utterance.spoken_lines += 1
    if not utterance.lines:
        utterance.position, utterance.spoken_lines = position + 1, 0
    index = utterance.request.first_index + position
    over = not utterance.lines
    return AudioChunk(samples, SAMPLE_RATE, index, text, last=utterance.finished, piece_over=over)


def cut(phonemes: str, most: int) -> tuple[str, ...]:
    """Phonemes in parts of at most `most`, cut at spaces where possible."""
    return tuple(part for part in cut_at_spaces(phonemes, most) if part.strip())


def _voices(folder: Path) -> dict[str, Tensor]:
    files = sorted((folder / "voices").glob("*.safetensors"))
    if not files:
        raise fail("unavailable", f"{folder} contains no Kokoro voices.", "Check the model's source.")
    return {file.stem: load_file(file)["voice"] for file in files}


def load(spec: EngineSpec) -> KokoroEngine:
    """Loads the model and its voices from `spec.folder`."""
    if spec.device not in PADDING:
        raise fail("unsupported", f"Kokoro does not run on {spec.device}.", f"Place it on {' or '.join(PADDING)}.")
    precision = _precision(spec)
    torch.set_num_threads(spec.threads)
    folder = Path(spec.folder)
    model = load_model(folder)
    if precision == "int8":
        with_int8_convolutions(model)
    return KokoroEngine(model, _voices(folder), spec.device, PADDING[spec.device])


def _precision(spec: EngineSpec) -> str:
    precision = spec.options.get("precision", "float32")
    if set(spec.options) - {"precision"} or precision not in PRECISIONS:
        cause = f"Kokoro's options {dict(spec.options)} are not valid."
        raise fail("invalid", cause, f"The only one is precision: {' or '.join(PRECISIONS)}.", param="options")
    if precision == "int8" and spec.device != "cpu":
        raise fail("unsupported", "Precision int8 runs on a CPU only.", "Remove the option precision.", param="options")
    return str(precision)
