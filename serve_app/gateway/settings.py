"""Settings of the gateway, each with its default, bounds and meaning. `serve_app/config.py` composes them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal, cast

from pydantic import Field, field_validator, model_validator

from deployments.audio.formats import MAX_LUFS, MIN_LUFS, AudioFormat
from deployments.settings import ArrivalSettings, Count, NonNegative, PieceSettings, Positive, StrictModel
from deployments.tasks.piece_quality import QualitySettings
from deployments.text.lexicon import Lexicon, LexiconEntries
from deployments.text.normalization.rules import ReadingRules

Mark = Annotated[float, Field(gt=0, lt=1)]
Preset = Literal["low-latency", "balanced", "high-stability"]


class PacingSettings(StrictModel):
    """The buffer between an engine and a client, and what happens when audio is late."""

    capacity_ms: Positive = 500.0
    """Audio that the buffer holds."""
    low_mark: Mark = 0.3
    """Below this share of the capacity the stream is urgent."""
    high_mark: Mark = 0.8
    """Above this share of the capacity the stream lets others go first."""
    look_ahead_ms: Positive = 1000.0
    """How far ahead of playback a played stream is made. It adapts, from half of this to twice."""
    frame_ms: Positive = 160.0
    """Audio of one write to the client."""
    chunk_budget_ms: Positive = 200.0
    """A chunk that is later than this is concealed."""
    fallback_after_ms: Positive = 2000.0
    """When a chunk is later than this, the fallback model takes over."""

    @model_validator(mode="after")
    def _marks_in_order(self) -> PacingSettings:
        if self.low_mark >= self.high_mark:
            raise ValueError("low_mark must be less than high_mark")
        return self


PRESETS: Mapping[Preset, PacingSettings] = {
    "low-latency": PacingSettings(capacity_ms=200.0, look_ahead_ms=500.0, frame_ms=80.0),
    "balanced": PacingSettings(),
    "high-stability": PacingSettings(capacity_ms=1000.0, look_ahead_ms=2000.0),
}


class OverloadSettings(StrictModel):
    """What happens while clients ask for more speech than a placement makes, of models without `autoscaling`. Two settings
    are multiples of the usual first sound: the time to a first sound of a request that finds no queue, which is measured for
    each placement. Each of several gateway replicas measures its part of what is asked for and made."""

    queue_in_first_sounds: Positive = 10.0
    """How long the wait for a first sound must be, as a multiple of the usual first sound, so that it counts as an overload
    if more is asked for than made. Below it, and in a queue that will drain, only `max_wait_s` refuses."""
    wait_in_first_sounds: Positive = 0.5
    """During an overload, the longest wait of a request that is admitted, as a multiple of the usual first sound. Requests of
    API keys that ask for no more than their fair share may wait for up to `max_wait_s`. With a large number only
    `max_wait_s` refuses."""
    listeners_share: Positive = 0.8
    """During an overload, the most clients that listen at the same time, for each second of audio that the placement makes in
    a second: with 0.8, a placement that makes 10 s of audio in a second has at most 8 listeners."""


LEAST_FIRST_SPEED = 1.0
"""Seconds of audio per second, which each of many gateways assumes at first. With less, a few clients that come together
before anything was measured would be refused."""


class AdmissionSettings(StrictModel):
    """How much speech may wait, in seconds of audio still to be made. The two limits are divided equally among the gateway
    replicas."""

    max_queued_seconds_of_audio: Positive = 3600.0
    """The most for one placement. A longer request counts as a gateway's part of this, so it is admitted where nothing else
    waits."""
    max_queued_seconds_of_audio_per_key: Positive = 1800.0
    """The most for one API key over all placements."""
    max_wait_s: Positive = 10.0
    """A request whose first audio is predicted to take longer is refused with 429."""
    overload: OverloadSettings = OverloadSettings()
    speed_memory_s: Positive = 5.0
    """Time constant with which measured speeds fade."""
    first_speed: Positive = 20.0
    """Seconds of audio per second, assumed of a placement before anything was measured."""
    short_seconds_of_audio: NonNegative = 10.0
    """A request of at most this much may exceed both limits by this much: a book must not keep out a chat reply."""
    max_retry_after_s: Positive = 60.0
    """The longest `Retry-After`. A longer prediction would be a guess."""
    paused_after_s: Positive = 1.0
    """A client that has requested nothing for this long, such as one that stopped reading, counts as paused."""
    paused_seconds_of_audio: Positive = 10.0
    """The most that a paused client counts for: what it may request at once when it goes on."""

    def among(self, replicas: int) -> AdmissionSettings:
        """The settings for one of several gateway replicas, which has its part of what may wait, and of the speed that is
        assumed at first. All else is compared with what a gateway measures: its part of what is asked for and made."""
        share = {
            "max_queued_seconds_of_audio": self.max_queued_seconds_of_audio / replicas,
            "max_queued_seconds_of_audio_per_key": self.max_queued_seconds_of_audio_per_key / replicas,
            "first_speed": max(self.first_speed / replicas, min(self.first_speed, LEAST_FIRST_SPEED)),
        }
        return self.model_copy(update=share)


class SpeechSettings(StrictModel):
    """How speech requests are answered."""

    pieces: PieceSettings = PieceSettings()
    normalize: ReadingRules = ReadingRules()
    """How written texts are read aloud; `false` speaks them as they are written. Requests may change it."""
    lexicon: LexiconEntries = Field(default_factory=dict)
    """Words that voices misread, and how to say them: `SQL: sequel`, or IPA between slashes as in `tomato: /təˈmeɪtoʊ/`. A
    word in small letters is found in any case, any other only as it is written. Requests may add words."""
    arrival: ArrivalSettings = ArrivalSettings()
    pacing: PacingSettings = PacingSettings()
    """These settings, or the name of a preset: low-latency, balanced or high-stability."""
    pacing_mode: Literal["fast", "played"] = "fast"
    """fast: audio is made as fast as it is read. played: about `look_ahead_ms` ahead, and late audio is concealed."""
    fallback_model: str | None = None
    """The model that takes over from a late one. Without a name it is the first other speech model."""
    aligning_model: str | None = None
    """The transcription model that finds the times of words in speech whose model does not know them. Without a name it is
    the first one that gives times."""
    piece_cache_bytes: Count = 64 * 1024 * 1024
    """Memory for audio of pieces that are spoken again."""
    admission: AdmissionSettings = AdmissionSettings()
    request_seconds_of_audio: Positive = 10.0
    """The most audio of one request to a replica, about. A client that stops reading costs at most this much."""
    quality: QualitySettings = QualitySettings()
    """How the sound of each piece is checked, and when it is made again."""
    verify_model: str | None = None
    """The model that hears the pieces of requests with `verify`. Without a name it is the first transcription model."""
    first_sound_alarm_ms: Positive = 350.0
    """A first audio that is later than this is counted in `motet_first_sounds_late`."""
    max_input_characters: Count = 100_000
    """The longest `input` of a request."""
    default_format: AudioFormat = "mp3"
    """The format where a request names none."""
    loudness_lufs: Annotated[float, Field(ge=MIN_LUFS, le=MAX_LUFS)] | None = None
    """The loudness (ITU-R BS.1770) to which speech is brought where a request names none. Without it, speech is as loud as
    its model makes it."""
    whole_flac_seconds_of_audio: NonNegative = 30.0
    """A FLAC of up to about this much audio is sent when all of it is made, so that its header has its length. A longer one
    is streamed, and its header has none."""

    @cached_property
    def known_words(self) -> Lexicon:
        """The lexicon, which is built once."""
        return Lexicon(self.lexicon)

    @field_validator("pacing", mode="before")
    @classmethod
    def _preset(cls, pacing: object) -> object:
        if not isinstance(pacing, str):
            return pacing
        if pacing not in PRESETS:
            raise ValueError(f"there is no preset {pacing!r}; presets: {', '.join(PRESETS)}")
        return PRESETS[cast(Preset, pacing)]


class EnhancementSettings(StrictModel):
    """Sessions of `/v1/audio/enhancements/stream` of a gateway replica."""

    max_sessions: Count = 32
    """Open sessions. It must be less than `gateway_max_ongoing_requests`."""
    max_sessions_per_client: Count | None = 8
    """How many of them one client may have open: one API key, or in a service without keys one address. Addresses of this
    machine are not counted. null: no limit, as behind a proxy that is the only client."""
    idle_s: Positive = 60.0
    """A session whose client sent nothing for this long is closed."""
    max_session_s: Positive = 4 * 3600.0
    """The longest session."""
    max_buffered_s: Positive = 10.0
    """Sound that has not come back. A session whose client sends more is closed."""


class VoiceSettings(StrictModel):
    """Uploaded voices."""

    folder: str = "~/.local/share/motet/voices"
    """Where clips are stored. Gateways on several machines need one shared folder."""
    keys_file: str | None = None
    """A file with keys, one on each line (`motet voices new-key`). Clips are stored encrypted with the first one; the others
    decrypt older clips. `null`: clips are not encrypted."""
    max_voices: Count = 1000
    """The most voices of all API keys."""
    max_voices_per_key: Count = 100
    """The most voices of one API key."""
    min_clip_s: Positive = 1.0
    """The shortest clip."""
    max_clip_s: Positive = 30.0
    """The longest clip."""


class IdempotencySettings(StrictModel):
    """Requests with an `Idempotency-Key`, of one gateway replica. A request that comes to another replica is made again."""

    keep_s: Positive = 600.0
    """How long an answer is kept after it was made."""
    max_answer_bytes: Count = 16 * 1024 * 1024
    """The longest answer that is kept."""
    max_bytes: Count = 128 * 1024 * 1024
    """Memory for all of them. The oldest are forgotten first."""
    max_answers: Count = 4096
    """How many are kept."""
    rejoin_s: Positive = 30.0
    """An answer is made for this long without a client; after that, the client that lost its connection has given up."""


class LimitSettings(StrictModel):
    """What a request may contain, and how long it may take."""

    max_body_bytes: Count = 1024 * 1024
    """The longest body of a route that has no limit of its own."""
    max_transcription_bytes: Count = 1024 * 1024 * 1024
    """The longest body of a transcription, a translation, or a recording that gets another voice."""
    max_separation_bytes: Count = 1024 * 1024 * 1024
    """The longest body of a separation."""
    max_voice_bytes: Count = 10 * 1024 * 1024
    """The longest body that uploads a voice."""
    body_grace_s: Positive = 10.0
    """A body may take this long, plus its bytes so far divided by `body_min_bytes_per_s`."""
    body_min_bytes_per_s: Positive = 16_000.0
    """The slowest rate of a body."""
    max_unfinished_bodies: Count = 1024
    """Bodies in progress of a gateway replica. With more, the slowest is refused."""
    max_unfinished_bytes: Count = 256 * 1024 * 1024
    """Memory for bodies in progress of a gateway replica, without the files of forms. With more, the largest is refused."""
    request_deadline_s: Positive = 3600.0
    """A request that takes longer is ended."""
    idempotency: IdempotencySettings = IdempotencySettings()
