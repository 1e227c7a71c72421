"""Every metric that a model's replica exports."""

from __future__ import annotations

from deployments.replica.metric import Counter, Gauge, Histogram, declared

MILLISECONDS = (1.0, 2, 5, 10, 20, 50, 100, 200, 350, 500, 1000, 2000, 5000, 10000)

STEP_BATCH_SIZE = Histogram(
    "motet_step_batch_size", "", "Items in a step.", bounds=(1.0, 2, 3, 4, 6, 8, 12, 16, 24, 32)
)
STEP_PADDING_SHARE = Histogram(
    "motet_step_padding_share",
    "",
    "Share of a padded batch that is padding.",
    bounds=(0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75),
)
STEP_WAIT_MS = Histogram("motet_step_wait_ms", "ms", "Wait of an item before its step.", bounds=MILLISECONDS)
STEP_MS = Histogram("motet_step_ms", "ms", "Time of a step: one call of the engine.", bounds=MILLISECONDS)
AUDIO_MADE_SECONDS = Counter("motet_audio_made_seconds", "s of audio", "Audio that was made.")
AUDIO_WASTED_SECONDS = Counter(
    "motet_audio_wasted_seconds", "s of audio", "Audio that was made for a client that had left."
)
REPLICA_FIRST_SOUND_MS = Histogram(
    "motet_replica_first_sound_ms", "ms", "From a request at the replica to its first audio.", bounds=MILLISECONDS
)
STREAM_TOKENS_PER_SECOND = Histogram(
    "motet_stream_tokens_per_second",
    "tokens/s",
    "Speed of one stream. Only autoregressive models count tokens.",
    start="measured",
    bounds=(5.0, 10, 12.5, 25, 50, 75, 100, 150, 200, 400, 800),
)
RUNAWAY_PIECES = Counter(
    "motet_runaway_pieces",
    "",
    "Pieces of text of which the model did not find the end, by the `reason` it was stopped for.",
    ("model", "reason"),
)
OPEN_STREAMS = Gauge("motet_open_streams", "", "Streams of speech in progress.")
ENGINE_MEMORY_BYTES = Gauge(
    "motet_engine_memory_bytes",
    "bytes",
    "Device memory that the engine's library holds, by `kind`: active, cached or peak. Only engines on MLX measure it.",
    ("model", "kind"),
    start="measured",
)
STEP_REPLAYED_SHARE = Gauge(
    "motet_step_replayed_share",
    "",
    "Share of all steps that replayed a captured graph; 0 for engines that capture none.",
)
STEP_CAPTURE_SECONDS = Gauge("motet_step_capture_seconds", "s", "Time spent on capturing graphs.")

REPLICA_METRICS = declared(list(globals().values()))
"""In the order of this file."""
