"""What Whisper engines of every library share: guards against invented text."""

from __future__ import annotations

# OpenAI's values (openai/whisper, transcribe.py), except for the probability of no speech, for which they have 0.6. Measured
# with Whisper base: 0.42 or more for 60 sounds without speech (noise of five colours, hum, clicks, music, silence), at most
# 0.35 for sentences in white or pink noise of the same energy.
NO_SPEECH_PROBABILITY = 0.4
LOG_PROBABILITY = -1.0
COMPRESSION_RATIO = 2.4
LONGEST_TEXT = 224
"""Tokens of the longest text of a window: half the decoder's context."""


def is_noise(no_speech_probability: float, average_log_probability: float, complete: bool) -> bool:
    """Whether the model itself rates its text as no speech, and the text is improbable or did not end before the longest
    possible text (not `complete`)."""
    bad = average_log_probability < LOG_PROBABILITY or not complete
    return no_speech_probability > NO_SPEECH_PROBABILITY and bad
