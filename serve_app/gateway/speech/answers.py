"""What the events of speech are made of: server-sent ones, and those of a WebSocket session. `/openapi.json` and
`/asyncapi.json` describe them. Times are in seconds of the stream, gaps included."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from deployments.engines.protocols import FinishReason, SpokenWord
from deployments.settings import documented
from deployments.tasks.piece_quality import Fault


@documented
class SpeechPiece(TypedDict):
    """A piece of the text whose sound begins in an event."""

    index: int
    text: str
    """What was written."""
    spoken: NotRequired[str]
    """What the model reads, if that is something else."""
    start_seconds: float


@documented
class SpeechAudioDelta(TypedDict):
    """More sound."""

    type: Literal["speech.audio.delta"]
    audio: str
    """The next bytes in base64."""
    pieces: NotRequired[list[SpeechPiece]]
    words: NotRequired[list[SpokenWord]]
    """With `word_timestamps`: the words that became known."""


@documented
class SpeechAudioConcealed(TypedDict):
    """Sound was late, and a gap was filled."""

    type: Literal["speech.audio.concealed"]
    concealed_seconds: float
    """All gaps so far."""
    fallback: bool
    """Whether another model has taken over."""
    fallback_piece: int | None
    """The piece with which it began."""


@documented
class SpeechAudioQuality(TypedDict):
    """A piece had a fault, or was heard because of `verify`."""

    type: Literal["speech.audio.quality"]
    index: int
    text: str
    faults: list[Fault]
    """Faults that stayed."""
    first_faults: list[Fault]
    """Faults of the first attempt."""
    attempts: int
    heard: NotRequired[str]
    word_error_rate: NotRequired[float]


class SpeechUsage(TypedDict):
    """A character of the text counts as an input token, a tenth of a second of sound as an output token."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    audio_seconds: float


class QualityOfPieces(TypedDict):
    """What was found in all pieces."""

    pieces: int
    made_again: int
    faulty: int
    faults: list[Fault]
    word_error_rate: NotRequired[float]


@documented
class SpeechSummary(TypedDict):
    """What is known at the end of a stream."""

    usage: SpeechUsage
    timing: dict[str, float]
    """Where the time went, in ms, as in the header `Server-Timing`."""
    finish_reason: FinishReason
    quality: NotRequired[QualityOfPieces]


class SpeechAudioDone(SpeechSummary):
    """The last event."""

    type: Literal["speech.audio.done"]


SpeechEvent = SpeechAudioDelta | SpeechAudioConcealed | SpeechAudioQuality | SpeechAudioDone


@documented
class AudioStart(TypedDict):
    """The sound of a piece begins: the binary messages that follow."""

    type: Literal["audio.start"]
    sentence_index: int
    sentence_text: str
    spoken: NotRequired[str]
    """What the model reads, if that is something else than what was written."""
    start_seconds: float
    format: str
    sample_rate: int
    model: str
    voice: str
    ignored: NotRequired[list[str]]
    """Fields of `session.config` that the service or the model does not use."""


class AudioWords(TypedDict):
    """With `word_timestamps`: when words of a piece are spoken."""

    type: Literal["audio.words"]
    sentence_index: int
    words: NotRequired[list[SpokenWord]]


class AudioDone(TypedDict):
    """The sound of a piece ends."""

    type: Literal["audio.done"]
    sentence_index: int
    total_bytes: int


class SpeechSessionDone(SpeechSummary):
    """The session ends. The service closes it with 1000."""

    type: Literal["session.done"]
    total_sentences: int


SpeechSessionEvent = AudioStart | AudioWords | AudioDone | SpeechAudioConcealed | SpeechAudioQuality | SpeechSessionDone
