"""Every metric that a gateway exports."""

from __future__ import annotations

from deployments.replica.metric import Counter, Gauge, Histogram, declared
from deployments.replica.metric_table import MILLISECONDS

FIRST_SOUND_ALARM_MS = Gauge(
    "motet_first_sound_alarm_ms", "ms", "The setting `speech.first_sound_alarm_ms`: later first audio is late.", ()
)
FIRST_SOUNDS_LATE = Counter("motet_first_sounds_late", "", "Requests whose first audio was later than the alarm.")
REQUEST_STAGE_MS = Histogram(
    "motet_request_stage_ms",
    "ms",
    "Time of a `stage` of a speech request: first_step, queue, infer, buffer, encode, write.",
    ("model", "stage"),
    bounds=MILLISECONDS,
)
REQUESTS = Counter(
    "motet_requests",
    "",
    "Requests that ended, by `route` and HTTP `status` (of a WebSocket: its close code). The model of a request that names "
    "no known one is `none`.",
    ("route", "model", "status"),
)
FAILURES = Counter("motet_failures", "", "Requests that failed, by `kind` of failure.", ("model", "kind"))
FIRST_SOUND_MS = Histogram(
    "motet_first_sound_ms", "ms", "From a request to its first bytes of audio.", bounds=MILLISECONDS
)
FIRST_RESULT_MS = Histogram(
    "motet_first_result_ms",
    "ms",
    "From a request to the first text of a transcription or the first audio of a separation.",
    bounds=MILLISECONDS,
)
REAL_TIME_FACTOR = Histogram(
    "motet_real_time_factor",
    "",
    "Seconds of steps for a second of audio, of a stream.",
    bounds=(0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0),
)
LEAST_LEAD_MS = Histogram(
    "motet_least_lead_ms",
    "ms",
    "The least audio that a client had ahead of playback, of a stream: its buffer at the worst moment.",
    bounds=(1.0, 20, 50, 100, 200, 350, 500, 1000, 2000, 5000),
)
UNDERRUNS = Counter("motet_underruns", "", "Times that a client ran out of audio.")
CONCEALED_SECONDS = Counter(
    "motet_concealed_seconds", "s of audio", "Audio that no engine made: it conceals late chunks."
)
LIVE_SESSIONS = Gauge("motet_live_sessions", "", "Open sessions of `/v1/realtime`.", ())
FINAL_TEXT_MS = Histogram(
    "motet_final_text_ms", "ms", "From the end of a turn of a live session to its whole text.", bounds=MILLISECONDS
)
SPEECH_PIECES = Counter("motet_speech_pieces", "", "Pieces of speech that were checked.")
PIECE_FAULTS = Counter(
    "motet_piece_faults",
    "",
    "Faults of pieces of speech, by `fault` and `of`: first (of first attempts) or left (of what was sent).",
    ("model", "fault", "of"),
)
PIECES_MADE_AGAIN = Counter("motet_pieces_made_again", "", "Pieces of speech that were made again.")
FALLBACKS = Counter("motet_fallbacks", "", "Streams that the fallback voice finished.")
QUEUED_REQUESTS = Gauge(
    "motet_queued_requests",
    "",
    "Requests of a `placement` that are open, also those being answered.",
    ("model", "placement"),
)
QUEUED_SECONDS_OF_AUDIO = Gauge(
    "motet_queued_seconds_of_audio", "s of audio", "Audio that a `placement` has still to make.", ("model", "placement")
)

GATEWAY_METRICS = declared(list(globals().values()))
"""In the order of this file."""
