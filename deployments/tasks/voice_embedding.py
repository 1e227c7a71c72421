"""What the voice of a recording is like, as a vector that can be compared with others."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from deployments.audio.decode import AudioDecoder
from deployments.audio.file_source import ByteSource
from deployments.audio.sound_decoder import AudioInfo, OpenDecoder, decoded_bytes
from deployments.audio.speaker_embedding import SAMPLE_RATE, shared_encoder
from deployments.engines.protocols import RecognitionOptions, Samples
from deployments.errors import fail
from deployments.settings import WindowSettings
from deployments.tasks.transcription import TranscriptionTask

MAX_SPEECH_S = 60.0
"""Speech that an embedding describes, from the first on. More would change it little."""
MIN_SPEECH_S = 0.5


@dataclass(frozen=True, slots=True)
class EmbeddingTicket:
    """The embedding of a recording's voice: `vector` (256,) float32 of length 1, from `speech_s` seconds of speech. The
    recording has `until_s` seconds."""

    index: int
    until_s: float
    vector: Samples
    speech_s: float


@dataclass(frozen=True, slots=True)
class VoiceEmbeddingTask:
    """Describes the voice of a recording with one speaker. `size_bytes` is the recording's, where it is known."""

    size_bytes: int | None = None

    def cut(
        self, file: ByteSource, settings: WindowSettings, open_decoder: OpenDecoder = AudioDecoder
    ) -> Generator[tuple[EmbeddingTicket, None]]:
        """One ticket, at the end. Raises what the decoder raises, and `MotetError`: invalid if the recording has less than
        `MIN_SPEECH_S` of speech, unavailable if the encoder's weights are not installed."""
        encoder = shared_encoder()
        parts: list[Samples] = []
        held_s = speech_s = until_s = 0.0
        with closing(self._windows(settings).cut(file, settings, open_decoder)) as windows:
            for ticket, window in windows:
                until_s = ticket.until_s
                if window is not None and held_s < MAX_SPEECH_S:
                    parts.append(window.samples)
                    held_s += len(window.samples) / SAMPLE_RATE
                    speech_s += sum(span.end_s - span.start_s for span in ticket.spans)  # without the padding
        if speech_s < MIN_SPEECH_S:
            cause = f"The recording has {speech_s:.1f} s of speech."
            raise fail("invalid", cause, f"Send at least {MIN_SPEECH_S:g} s.", param="file", code="too_little_speech")
        samples = np.concatenate(parts)[: round(MAX_SPEECH_S * SAMPLE_RATE)]
        yield EmbeddingTicket(0, until_s, encoder.embed(samples), min(speech_s, MAX_SPEECH_S)), None

    def held_bytes(self, info: AudioInfo, settings: WindowSettings) -> int:
        """The bytes of the windows' own, and of the speech that is described."""
        return self._windows(settings).held_bytes(info, settings) + decoded_bytes(MAX_SPEECH_S, SAMPLE_RATE, 1)

    def _windows(self, settings: WindowSettings) -> TranscriptionTask:
        return TranscriptionTask(SAMPLE_RATE, RecognitionOptions(), settings.window_s, size_bytes=self.size_bytes)
