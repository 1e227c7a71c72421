"""Sounds that are measured like speech: syllables of noise, each with a spectrum of its own."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from deployments.engines.protocols import AudioChunk, Samples, SpeechRequest, SpeechTraits, Voice

RATE = 16_000
SYLLABLE_S = 0.2
LETTERS = 3
"""Letters of a syllable."""
TRAITS = SpeechTraits(RATE, (Voice("ada", "en-GB"),), "ada", 0.5, 2.0)


def said(text: str, seed: int = 0, level: float = 0.1) -> Samples:
    """The sound of a text, mono float32 (n,) at `RATE` Hz. Equal syllables sound alike, equal seeds the same."""
    noise = np.random.default_rng((zlib.crc32(text.encode()), seed))
    parts = [text[at : at + LETTERS] for at in range(0, len(text), LETTERS)]
    return np.concatenate([_syllable(part, noise) for part in parts]) * np.float32(level)


def _syllable(letters: str, noise: np.random.Generator) -> Samples:
    count = int(SYLLABLE_S * RATE)
    spectrum = np.fft.rfft(noise.standard_normal(count))
    hertz = np.fft.rfftfreq(count, 1 / RATE)
    formants = np.random.default_rng(zlib.crc32(letters.encode())).uniform(200, 5000, 3)
    spectrum *= sum(np.exp(-(((hertz - formant) / 150) ** 2)) for formant in formants)
    sound = np.fft.irfft(spectrum, count) * np.hanning(count) ** 2
    sound /= np.sqrt(np.mean(np.square(sound)))
    samples: Samples = sound.astype(np.float32)
    return samples


@dataclass
class SpokenUtterance:
    """What is left to say."""

    request: SpeechRequest
    chunks: list[AudioChunk]
    closed: bool = False

    @property
    def finished(self) -> bool:
        """True when every chunk was taken, or the caller closed it."""
        return self.closed or not self.chunks


@dataclass
class NoisyEngine:
    """Says pieces in chunks of at most `chunk_s`. `spoiled` maps pieces to their sound in the first attempt, which is the one
    with seed 0."""

    chunk_s: float = 100.0
    spoiled: dict[str, Samples] = field(default_factory=dict)
    always: bool = False
    requests: list[SpeechRequest] = field(default_factory=list)
    opened: int = 0

    @property
    def traits(self) -> SpeechTraits:
        """One voice."""
        return TRAITS

    def sound(self, piece: str, seed: int) -> Samples:
        """What it says."""
        if piece in self.spoiled and (seed == 0 or self.always):
            return self.spoiled[piece]
        return said(piece, seed)

    def open(self, request: SpeechRequest) -> SpokenUtterance:
        """One call at a time, as engines with one place have it."""
        assert self.opened == 0
        self.opened += 1
        self.requests.append(request)
        size = int(self.chunk_s * RATE)
        chunks = []
        for at, piece in enumerate(request.pieces):
            sound = self.sound(piece, request.seed)
            cuts = [sound[start : start + size] for start in range(0, len(sound), size)]
            for number, cut in enumerate(cuts):
                over = number + 1 == len(cuts)
                last = over and at + 1 == len(request.pieces)
                chunks.append(AudioChunk(cut, RATE, request.first_index + at, piece, last, piece_over=over))
        return SpokenUtterance(request, chunks)

    def first_cost(self, request: SpeechRequest) -> float:
        """The same for all."""
        return 1.0

    def cost(self, utterance: SpokenUtterance) -> float:
        """The same for all."""
        return 1.0

    def step(self, utterances: Sequence[SpokenUtterance]) -> list[AudioChunk | Exception]:
        """The next chunk of each."""
        return [utterance.chunks.pop(0) for utterance in utterances]

    def close(self, utterance: SpokenUtterance) -> None:
        """Frees the place."""
        self.opened -= not utterance.closed
        utterance.closed = True
