"""What is found in a recording without a recognition model: where somebody speaks, who, and what the voice is like.

All of it is done while the recording is cut, so these tasks need an audio helper only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from deployments.audio.file_source import ByteSource
from deployments.audio.speaker_embedding import SAMPLE_RATE, shared_encoder
from deployments.engines.protocols import RecognitionOptions, Samples
from deployments.errors import fail
from deployments.settings import VoiceActivitySettings, WindowSettings
from deployments.tasks.diarization import SpeakerTask, SpeakerTurn
from deployments.tasks.transcription import TranscriptionTask, Window, WindowTicket

TOUCHING_S = 1e-3
"""Sections of speech that are no further apart are one: a window's end cuts a section into two."""
EMBEDDED_S = 60.0
"""Speech that an embedding describes, from the first on. More changes it little."""
MIN_EMBEDDED_S = 0.5


@dataclass(frozen=True, slots=True)
class SpeechTask:
    """Finds the speech of a recording, and who speaks if `speakers` is given. `size_bytes` is the recording's, where it is
    known; `voice_activity` replaces that of the settings."""

    speakers: SpeakerTask | None = None
    size_bytes: int | None = None
    voice_activity: VoiceActivitySettings | None = None

    def cut(self, file: ByteSource, settings: WindowSettings) -> Iterator[tuple[WindowTicket, None]]:
        """A ticket for each window, without the window. The last one has the turns and the recording's length. Raises what
        `TranscriptionTask.cut` raises."""
        for ticket, _ in self._windows(file, settings):
            yield ticket, None

    def _windows(self, file: ByteSource, settings: WindowSettings) -> Iterator[tuple[WindowTicket, Window | None]]:
        task = TranscriptionTask(
            SAMPLE_RATE,
            RecognitionOptions(),
            settings.window_s,
            size_bytes=self.size_bytes,
            speakers=self.speakers,
            voice_activity=self.voice_activity,
        )
        return task.cut(file, settings)


@dataclass(frozen=True, slots=True)
class RecordingSpeech:
    """The speech of a recording of `seconds`: sections as (start, end) in seconds, and turns if speakers were looked for."""

    seconds: float
    sections: tuple[tuple[float, float], ...]
    turns: tuple[SpeakerTurn, ...]


def speech_of(tickets: Sequence[WindowTicket]) -> RecordingSpeech:
    """What the tickets of one recording say together."""
    sections: list[tuple[float, float]] = []
    for start_s, end_s in ((span.start_s, span.end_s) for ticket in tickets for span in ticket.spans):
        if sections and start_s - sections[-1][1] <= TOUCHING_S:
            sections[-1] = (sections[-1][0], max(end_s, sections[-1][1]))
        else:
            sections.append((start_s, end_s))
    last = tickets[-1] if tickets else None
    return RecordingSpeech(last.until_s if last else 0.0, tuple(sections), last.turns if last else ())


@dataclass(frozen=True, slots=True)
class EmbeddingTicket:
    """The embedding of a recording's voice: `vector` (256,) float32 of length 1, from `seconds` of speech."""

    index: int
    vector: Samples
    seconds: float


@dataclass(frozen=True, slots=True)
class EmbeddingTask:
    """Describes the voice of a recording with one speaker."""

    size_bytes: int | None = None

    def cut(self, file: ByteSource, settings: WindowSettings) -> Iterator[tuple[EmbeddingTicket, None]]:
        """One ticket. Raises what `TranscriptionTask.cut` raises, and `MotetError`: invalid if the recording has less than
        half a second of speech, unavailable if the encoder's weights are not installed."""
        encoder = shared_encoder()
        speech: list[Samples] = []
        seconds = 0.0
        for _, window in SpeechTask(size_bytes=self.size_bytes)._windows(file, settings):
            if window is not None and seconds < EMBEDDED_S:
                speech.append(window.samples)
                seconds += len(window.samples) / SAMPLE_RATE
        if seconds < MIN_EMBEDDED_S:
            cause = f"The recording has {seconds:.1f} s of speech."
            raise fail("invalid", cause, f"Send at least {MIN_EMBEDDED_S:g} s.", param="file", code="too_little_speech")
        samples = np.concatenate(speech)[: round(EMBEDDED_S * SAMPLE_RATE)]
        yield EmbeddingTicket(0, encoder.embed(samples), len(samples) / SAMPLE_RATE), None
