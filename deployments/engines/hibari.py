"""hibari: a small English voice (ONNX, 24 kHz) that speaks much faster than real time on one core.

A step is one piece of text. The network takes one piece at a time, so a batch runs on as many threads as the replica
has, with one ONNX Runtime thread each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hibari import SAMPLE_RATE, Hibari
from hibari.voices import VOICES

from deployments.engines.base import AudioChunk, EngineSpec, Samples, SpeechRequest, SpeechTraits, Voice
from deployments.engines.pieces import PieceUtterance
from deployments.errors import fail
from deployments.text.english import readable


@dataclass(slots=True, eq=False, kw_only=True)
class HibariUtterance(PieceUtterance):
    """What is left to say, and by whom."""

    voice: str


class HibariEngine:
    """Speaks with every hibari voice whose ONNX file is in the folder."""

    def __init__(self, spec: EngineSpec) -> None:
        self._voices = {name: Hibari(voice=name, model=str(path), threads=1) for name, path in _voice_files(spec)}
        if not self._voices:
            raise fail("unavailable", f"{spec.folder} holds no hibari voice.", "Check the model's source.")
        self._pool = ThreadPoolExecutor(spec.threads, thread_name_prefix="hibari")
        for voice in self._voices.values():
            _ = voice.g2p  # loads the lexicon now rather than in the first request

    @property
    def traits(self) -> SpeechTraits:
        """24 kHz. Asked for more than 1.5, the voice falls ever further behind it."""
        voices = tuple(
            Voice(name, VOICES[name]["language"], f"{VOICES[name]['accent']} {VOICES[name]['gender']}")
            for name in self._voices
        )
        return SpeechTraits(SAMPLE_RATE, voices, default_voice=voices[0].id, min_speed=0.5, max_speed=1.5, exact=True)

    def open(self, request: SpeechRequest) -> HibariUtterance:
        """Raises `MotetError` (not_found) for a voice that is not here."""
        if request.voice not in self._voices:
            known = ", ".join(self._voices)
            raise fail("not_found", f"There is no voice {request.voice!r}.", f"Voices: {known}.", param="voice")
        return HibariUtterance(request=request, voice=request.voice)

    def first_cost(self, request: SpeechRequest) -> float:
        """Characters of the first piece."""
        return float(len(request.pieces[0]))

    def cost(self, utterance: HibariUtterance) -> float:
        """Characters of the next piece."""
        return float(len(utterance.pieces[utterance.position]))

    def step(self, utterances: Sequence[HibariUtterance]) -> list[AudioChunk | Exception]:
        """Speaks the next piece of each utterance."""
        if len(utterances) == 1:
            return [self._speak(utterances[0])]
        return list(self._pool.map(self._speak, utterances))

    def close(self, utterance: HibariUtterance) -> None:
        """Forgets the pieces that were not spoken."""
        utterance.closed = True
        utterance.pieces = ()

    def _speak(self, utterance: HibariUtterance) -> AudioChunk | Exception:
        try:
            position = utterance.position
            text = utterance.pieces[position]
            samples = self._synthesize(utterance, text)
        except Exception as error:
            utterance.closed = True
            return error
        utterance.position = position + 1
        index = utterance.request.first_index + position
        return AudioChunk(samples, SAMPLE_RATE, index, text, last=utterance.finished)

    def _synthesize(self, utterance: HibariUtterance, text: str) -> Samples:
        voice, request = self._voices[utterance.voice], utterance.request
        # A piece's noise depends on nothing but the seed and its place, so it sounds the same in any batch.
        noise = np.random.default_rng([request.seed, request.first_index + utterance.position])
        parts = [voice.from_ids(voice.ids(p), request.speed, noise) for p in voice.phonemize(readable(text))]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _voice_files(spec: EngineSpec) -> Iterator[tuple[str, Path]]:
    for name, facts in VOICES.items():
        for folder in (Path(spec.folder), Path(spec.folder) / "voices"):
            if (folder / facts["file"]).is_file():
                yield name, folder / facts["file"]
                break


def load(spec: EngineSpec) -> HibariEngine:
    """Loads the voices in `spec.folder`."""
    return HibariEngine(spec)
