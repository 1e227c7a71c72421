"""Settings of what runs on replicas, each with its default, bounds and meaning. `serve_app/config.py` composes them.

Units are the end of a name: `_s`, `_ms`, `_bytes`, `_characters`, `_seconds_of_audio`. `motet config` prints all of them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator, with_config

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, le=1)]


InputType = Literal["text", "ssml"]
"""What a text to speak is written in."""


class StrictModel(BaseModel):
    """Refuses unknown keys and changes after construction."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True)


documented = with_config(ConfigDict(use_attribute_docstrings=True))
"""Of a `TypedDict`: the text under a field describes it, as in a `StrictModel`."""


class StepSettings(StrictModel):
    """How calls of one engine are gathered into batches. A running replica takes changes without a restart."""

    max_batch_size: Count = 8
    """Work items of one step. Models that transcribe take 16 windows by default; none takes more than its engine gains
    from."""
    batch_wait_ms: Annotated[float, Field(ge=0, le=50)] = 10.0
    """How long the first item of a batch waits for others."""
    max_padding_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """The share of a padded batch that may be padding."""
    urgent_below_ms: float = 150.0
    """A listener with less audio buffered than this is urgent."""
    ahead_above_ms: NonNegative = 400.0
    """A listener with more audio buffered than this lets urgent ones go first."""
    backlog_cost: Positive = 2000.0
    """While items of a higher total cost wait, a short item goes first and alone. Engines define the unit of cost."""
    short_cost: Positive = 100.0
    """The highest cost of a short item."""
    capture_after_idle_s: Positive = 60.0
    """An engine that captures graphs of its step captures missing batch sizes after it was idle for this long."""
    gate: bool = True
    """Whether callers wait for the end of the running step before they enter a batch."""


BAD_CHECKS = 3
"""Ray Serve 2.60 replaces a replica after this many failed checks in a row (a constant of its private modules)."""


class HealthSettings(StrictModel):
    """How often Ray Serve checks a replica. It ends the replica after three failed checks in a row and starts another.

    With the defaults it ends a replica 12 to 15 s after the replica's event loop stopped. A check runs beside the engine's
    thread, so a replica with a busy engine passes it.
    """

    period_s: Positive = 2.0
    """Time between two checks."""
    timeout_s: Positive = 4.0
    """A check without an answer for this long has failed."""

    @property
    def noticed_within_s(self) -> float:
        """The longest time from when a replica stops answering until Ray Serve ends it. Ray Serve varies its period by a
        tenth, and looks every half period for checks that are due."""
        longest_period_s = 1.6 * self.period_s
        return longest_period_s + (BAD_CHECKS - 1) * max(self.timeout_s, longest_period_s) + self.timeout_s


class SpilloverSettings(StrictModel):
    """When a request goes to another placement of its model."""

    silent_s: Positive = 1.0
    """A placement without an answer for this long gets a health check."""
    life_sign_s: Positive = 1.0
    """How long that check may take. Replicas answer it beside their engine, however busy the engine is."""
    last_life_sign_s: Positive = 3.0
    """How much longer it may take on the last placement. After that, requests for the model get 503 at once."""
    restart_wait_s: Positive = 5.0
    """How long a request waits for the replica that replaces the last one of its model. If it is expected to take longer, the
    request gets 503 at once, with the time in `Retry-After`."""
    ask_again_s: Positive = 0.5
    """Time until the check is repeated when the replica that received it is gone."""
    wake_s: Positive = 60.0
    """How long a placement without replicas has to start one before the next, more expensive one is started too."""


class PieceSettings(StrictModel):
    """How long text is cut into speakable pieces."""

    first_piece_characters: Count = 80
    """The longest first piece. It is short so that audio starts early."""
    piece_characters: Count = 250
    """The longest other piece."""


class ArrivalSettings(StrictModel):
    """Text that arrives while it is spoken, over a WebSocket or on standard input."""

    max_characters: Count = 100_000
    """The longest text of a session."""
    pause_s: Positive = 1.0
    """After this long without new text, the text so far is spoken, even in mid-sentence."""
    idle_s: Positive = 30.0
    """A session that had nothing to speak for this long is closed."""
    max_message_bytes: Count = 128 * 1024
    """The longest WebSocket message."""
    max_sessions: Count = 64
    """Open sessions of a gateway replica. It must be less than `gateway_max_ongoing_requests`."""
    max_sessions_per_client: Count | None = 16
    """How many of them one client may have open: one API key, or in a service without keys one address. Addresses of this
    machine are not counted. null: no limit, as behind a proxy that is the only client."""


class VoiceActivitySettings(StrictModel):
    """What counts as speech. The network gives the probability of speech every 32 ms."""

    enabled: bool = True
    """Whether silences are cut out. Without it all sound is taken for speech."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Speech begins where its probability reaches this, and ends where it falls 0.15 below."""
    min_speech_ms: NonNegative = 200.0
    """Shorter speech is left out. A short word such as "no" takes about 350 ms."""
    min_silence_ms: NonNegative = 300.0
    """A shorter silence does not end a section of speech."""
    pad_ms: Annotated[float, Field(ge=0, le=2000)] = 200.0
    """Sound that is kept before and after a section of speech."""


class DecoderSettings(StrictModel):
    """What decoding one recording may take. Each recording is decoded in a process of its own; one that takes more is ended,
    and the recording is refused."""

    memory_mb: Count = 256
    """Memory, beside what the process has when it starts. macOS does not enforce it."""
    cpu_s: Positive = 10.0
    """Processor time, to which the next two add."""
    cpu_s_per_mb: Positive = 0.5
    """Processor time for each megabyte that was read."""
    cpu_s_per_minute: Positive = 3.0
    """Processor time for each minute of sound that was decoded. FFmpeg takes 0.02 to 0.2 s."""
    silent_s: Positive = 60.0
    """The longest time without the next second of sound, and without a wait for the upload."""


class RecordingSettings(StrictModel):
    """Recordings on their way through an audio helper: the process that decodes and cuts them, for all models."""

    helpers: Count = 1
    """Audio helpers. A single one also merges what was separated; with more, each and the merger have a process of their
    own."""
    max_sessions: Count = 64
    """Recordings of one helper at the same time. Others are refused with 429."""
    decoders: Count = 4
    """Recordings that a helper decodes at the same time. Those that wait for their upload are not counted."""
    decoded_mb: Count = 512
    """Decoded sound that a helper holds for all its recordings (2^20 bytes). A recording that does not fit waits before it is
    decoded, and its upload with it. Separation in chunks of 10 s takes 8 MB for stereo at 48 kHz. A recording
    that takes more than this alone is refused with 413."""
    decoded_wait_s: Positive = 60.0
    """A recording that has waited for room for this long is refused with 429."""
    decoder: DecoderSettings = DecoderSettings()
    """What decoding one recording may take."""
    max_in_flight: Count = 128
    """Windows and chunks that are under way for all recordings of a gateway replica. Recordings share them equally, and each
    may always have one. A window of 30 s takes 2 MB of shared memory."""
    session_idle_s: Positive = 60.0
    """A recording of which nothing was read or written for this long is ended, unless it waits for a model."""
    block_bytes: Count = 256 * 1024
    """Bytes of a recording that the gateway sends to a helper at once."""


class WindowSettings(StrictModel):
    """How a recording is cut into windows for recognition."""

    voice_activity: VoiceActivitySettings = VoiceActivitySettings()
    """What counts as speech."""
    window_s: Annotated[float, Field(gt=1, le=30)] = 30.0
    """The longest window. Silences are cut out, so it may be made of sound from a longer part of the recording."""
    min_window_s: Positive = 25.0
    """The shortest window before more speech. A window ends at the longest pause between `min_window_s` and `window_s`, or at
    its quietest moment if nobody pauses."""
    first_window_s: Positive = 5.0
    """The first window of a transcription that is streamed ends at the first pause after this long."""
    report_s: Positive = 30.0
    """A transcription that is streamed reports its position at least this often, in seconds of the recording, while nobody
    speaks."""
    windows_in_flight: Count | None = None
    """The most windows of one recording that are under way. null: twice what all replicas of the model take in one step, so
    that the next batch waits when one ends."""
    max_audio_s: Positive = 4 * 3600.0
    """The longest recording."""
    max_wait_s: Positive = 120.0
    """A transcription whose first window is predicted to wait for longer is refused."""

    @model_validator(mode="after")
    def _in_order(self) -> WindowSettings:
        if self.min_window_s >= self.window_s:
            raise ValueError("min_window_s must be less than window_s")
        return self


class RevoicingSettings(StrictModel):
    """How the words of a recording are spoken by another voice, phrase by phrase."""

    pause_s: Positive = 0.3
    """A pause of at least this long ends a phrase."""
    max_phrase_s: Positive = 12.0
    """Sentences without a pause between them are one phrase of at most this length in the recording. A longer sentence is a
    phrase of its own."""
    max_speed: Annotated[float, Field(ge=1, le=2)] = 1.4
    """How much faster a phrase may be spoken to end before the next one, where the request does not say."""
    min_gap_s: NonNegative = 0.1
    """A pause of the recording is shortened to no less than this."""
    phrases_in_flight: Count = 4
    """Phrases of one recording that are spoken at the same time."""


class SubtitleSettings(StrictModel):
    """How transcripts become subtitles (SRT, VTT). A wide letter, such as a Chinese one, counts as two characters."""

    line_characters: Count = 42
    """The longest line. Only a longer word makes a longer line."""
    lines: Count = 2
    """The most lines of a cue."""
    characters_per_second: Positive = 17.0
    """Reading speed. A cue is shown for as long as reading takes if nobody speaks before."""
    min_cue_s: Positive = 1.0
    """The shortest time of a cue, if nobody speaks before."""
    max_cue_s: Positive = 7.0
    """The longest time from the first word of a cue to its last."""
    pause_s: Positive = 1.0
    """A pause of at least this long ends a cue."""


class SeparationSettings(StrictModel):
    """How a recording is cut into chunks for separation."""

    chunk_s: Positive = 10.0
    """The length of a chunk where the request names none."""
    overlap_s: NonNegative = 3.0
    """How much of a chunk is faded into the next one. At most half of `chunk_s`."""
    chunks_in_flight: Count = 4
    """Chunks of one recording that are separated at the same time, for each hardware class on which the model runs now. A
    slow class gets a chunk when the others need longer for the chunks that they have."""
    max_audio_s: Positive = 4 * 3600.0
    """The longest recording."""
    # Each chunk costs a round trip through the graph: very short chunks would occupy it for minutes.
    min_chunk_s: Positive = 0.5
    """The shortest chunk that a request may ask for."""
    max_chunk_s: Positive = 60.0
    """The longest chunk that a request may ask for."""
    max_wait_s: Positive = 120.0
    """A separation whose first chunk is predicted to wait for longer is refused."""

    @model_validator(mode="after")
    def _fit(self) -> SeparationSettings:
        if not self.min_chunk_s <= self.chunk_s <= self.max_chunk_s:
            raise ValueError("chunk_s must lie between min_chunk_s and max_chunk_s")
        if self.overlap_s > self.chunk_s / 2:
            raise ValueError("overlap_s must be at most half of chunk_s")
        return self
