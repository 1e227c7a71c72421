"""What Whisper engines of every library share: the transcription of what the model left out at the end of a window, and
OpenAI's rule for noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from deployments.engines.protocols import RecognitionOptions, Transcript, Window
from deployments.engines.recognition import SAMPLE_RATE, WindowedRecognition, has_speech

LEAST_REST_SECONDS = 1.0
"""The rest of a window after its last segment is transcribed again if it is at least this long and has speech."""
# OpenAI's rule for a segment that is not speech: openai/whisper, transcribe.py.
NO_SPEECH_PROBABILITY = 0.6
LOG_PROBABILITY = -1.0


class WhisperRecognition(WindowedRecognition):
    """Transcribes every window to its end."""

    def recognize_all(self, windows: Sequence[Window], options: RecognitionOptions) -> Sequence[Transcript]:
        """Whisper may stop before the window ends; the rest is then transcribed like a window of its own.

        Without timestamp tokens the model would not stop, but on repetitive speech it then leaves out more.
        """
        transcripts = list(self.recognize(windows, options))
        rests = [rest(window, transcript) for window, transcript in zip(windows, transcripts, strict=True)]
        again = [(at, left) for at, left in enumerate(rests) if left is not None]
        more = self.recognize_all([left for _, left in again], options) if again else ()
        for (at, left), left_transcript in zip(again, more, strict=True):
            before = (len(windows[at].samples) - len(left.samples)) / SAMPLE_RATE
            later = tuple(segment.moved(before) for segment in left_transcript.segments)
            transcripts[at] = replace(transcripts[at], segments=transcripts[at].segments + later)
        return transcripts


def rest(window: Window, transcript: Transcript) -> Window | None:
    """The window after the last segment, if it is long enough and contains speech."""
    if not transcript.segments:
        return None
    end = max(transcript.segments[-1].end, LEAST_REST_SECONDS)
    start = round(end * SAMPLE_RATE)
    samples = window.samples[start:]
    if len(samples) < LEAST_REST_SECONDS * SAMPLE_RATE or not has_speech(samples):
        return None
    return Window(samples, window.options)


def is_noise(no_speech_probability: float, average_log_probability: float) -> bool:
    """Whether the model itself rates its text as no speech."""
    return bool(no_speech_probability > NO_SPEECH_PROBABILITY and average_log_probability < LOG_PROBABILITY)
