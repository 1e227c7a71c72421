"""The sound of a Wyoming client as the service takes it: 16-bit PCM, mono, 16 kHz."""

from __future__ import annotations

import numpy as np
from wyoming.audio import AudioChunk, AudioFormat

from deployments.audio.pcm import to_int16
from deployments.audio.resample import Resampler
from deployments.errors import fail

RATE = 16_000
MOST_CHANNELS = 8
RATES = (4_000, 192_000)
_TYPES = {1: "u1", 2: "<i2", 4: "<i4"}
"""PCM by bytes of a sample. One byte is unsigned, as in WAV files."""


class InputSound:
    """Converts one stream, chunk by chunk. Raises `MotetError` (invalid) for a format that it cannot convert."""

    def __init__(self, form: AudioFormat) -> None:
        if form.width not in _TYPES or not 1 <= form.channels <= MOST_CHANNELS or not RATES[0] <= form.rate <= RATES[1]:
            cause = f"The sound has {form.channels} channels of {form.width} bytes at {form.rate} Hz."
            remedy = f"Send 1, 2 or 4 bytes, up to {MOST_CHANNELS} channels, {RATES[0]} to {RATES[1]} Hz."
            raise fail("invalid", cause, remedy, code="format_unsupported")
        self._form = form.rate, form.width, form.channels
        self._resampler = Resampler(form.rate, RATE)

    def convert(self, chunk: AudioChunk) -> bytes:
        """The chunk, as far as the resampler gives it out already. Raises `MotetError` if its format is another."""
        _, width, channels = self._form
        if (chunk.rate, chunk.width, chunk.channels) != self._form or len(chunk.audio) % (width * channels):
            cause = "A chunk of sound is not in the format of its audio-start."
            raise fail("invalid", cause, "Keep the format until audio-stop.", code="format_changed")
        samples = np.frombuffer(chunk.audio, _TYPES[width]).astype(np.float32)
        samples = (samples - 128.0) / 128.0 if width == 1 else samples / np.float32(2 ** (8 * width - 1))
        return to_int16(self._resampler.push(samples.reshape(-1, channels).mean(axis=1))).tobytes()

    def finish(self) -> bytes:
        """What the resampler held back."""
        return to_int16(self._resampler.finish()).tobytes()
