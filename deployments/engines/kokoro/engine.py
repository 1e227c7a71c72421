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
from deployments.engines.kokoro.model import FRAMES_PER_SECOND, KokoroInput, KokoroModel, KokoroSound, load_model
from deployments.engines.kokoro.phonemes import LANGUAGES, Phonemizers, language_of
from deployments.engines.kokoro.vocoder import HARMONICS, SAMPLE_RATE
from deployments.engines.protocols import (
    AudioChunk,
    EngineSpec,
    SpeechRequest,
    SpeechTraits,
    SpokenWord,
    Voice,
)
from deployments.engines.speech import SILENCE, PieceUtterance, cut_at_spaces, unknown_voice
from deployments.engines.word_durations import PhonemeLine, PhonemeText, PieceWords, cut_line
from deployments.errors import fail
from deployments.text import voice_mix

PADDING: Mapping[str, float] = {"cpu": 0.0, "cuda": 0.5}
"""The share of padding that the vocoder accepts for a larger batch. A CPU is fully used by one row."""

PRECISIONS = ("float32", "int8")

LAG_S = 0.065
"""The durations place each phoneme this much later than it sounds."""


@dataclass(slots=True, eq=False, kw_only=True)
class KokoroUtterance(PieceUtterance):
    """The state of a stream. `lines` are the remaining phonemes of the current piece, and `words` its words.

    A piece with more phonemes than the model takes at once is spoken in several steps.
    """

    pack: Tensor
    language: str
    lines: tuple[PhonemeLine, ...] = ()
    words: PieceWords | None = None
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
        languages = {name: LANGUAGES[language_of(name)] for name in self._voices}
        voices = tuple(
            Voice(name, language.tag, other_languages=language.other_languages) for name, language in languages.items()
        )
        return SpeechTraits(SAMPLE_RATE, voices, voices[0].id, 0.5, 2.0, mixes=True, phonemes=True, word_times=True)

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
            line if isinstance(line, Exception) else self._advance(utterance, next(sounds) if _is_sound(line) else None)
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
                text = utterance.pieces[utterance.position]
                read = self._phonemes.of(text, utterance.language)
                utterance.lines = cut(read, self._model.most_tokens)
                utterance.words = PieceWords(text, read.words, SAMPLE_RATE)
            return self._line(utterance, utterance.lines[0].phonemes) if utterance.lines else None
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

    def _sounds(self, utterances: Sequence[KokoroUtterance], lines: Sequence[KokoroInput]) -> list[KokoroSound]:
        if not lines:
            return []
        seeds = [_seed(utterance) for utterance in utterances]

        def noise(row: int, samples: int) -> Tensor:
            drawn = np.random.default_rng(seeds[row]).standard_normal((samples, HARMONICS), dtype=np.float32)
            return torch.from_numpy(drawn)

        sounds: list[KokoroSound] = self._model(lines, noise, self._padding)
        return sounds

    def _advance(self, utterance: KokoroUtterance, sound: KokoroSound | None) -> AudioChunk:
        position, samples, words = utterance.position, SILENCE, list[SpokenWord]()
        line, rest = utterance.lines[:1], utterance.lines[1:]
        if sound is not None and utterance.words is not None:
            samples = np.clip(sound.samples.float().cpu().numpy(), -1.0, 1.0)
            ends_s = self._ends_s(line[0].phonemes, sound.frames)
            words = utterance.words.spoken(line[0], ends_s, samples, last=not rest)
        utterance.lines = rest
        utterance.spoken_lines += 1
        if not rest:
            utterance.position, utterance.spoken_lines = position + 1, 0
        index, text, over = utterance.request.first_index + position, utterance.pieces[position], not rest
        return AudioChunk(
            samples, SAMPLE_RATE, index, text, last=utterance.finished, piece_over=over, words=tuple(words)
        )

    def _ends_s(self, phonemes: str, frames: Tensor) -> list[float]:
        """Where each phoneme ends, in seconds, after where the first one starts. Phonemes that the model does not know take
        no time."""
        said = np.array([phoneme in self._model.vocabulary for phoneme in phonemes])
        lengths = np.zeros(len(said) + 1)
        known = frames.cpu().numpy()
        lengths[0] = known[0]  # the first and the last one are end tokens
        lengths[1:][said] = known[1:-1]
        ends: list[float] = (np.cumsum(lengths) / FRAMES_PER_SECOND - LAG_S).tolist()
        return ends


def _is_sound(line: KokoroInput | Exception | None) -> bool:
    return isinstance(line, KokoroInput)


def _seed(utterance: KokoroUtterance) -> list[int]:
    """A line's noise depends only on the seed and the line's index, so it sounds the same in any batch."""
    return [utterance.request.seed, utterance.index, utterance.spoken_lines]


def cut(text: PhonemeText, most: int) -> tuple[PhonemeLine, ...]:
    """The lines of a text in parts of at most `most` phonemes, cut at spaces where possible."""
    parts = (part for line in text.lines for part in cut_line(line, cut_at_spaces(line.phonemes, most)))
    return tuple(part for part in parts if part.phonemes.strip())


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
