"""What answers with transcripts are made of, in the formats of OpenAI. `transcript_formats.py` and `transcript_events.py`
make them; `/openapi.json` describes them."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from deployments.settings import documented


class DurationUsage(TypedDict):
    """The length of the recording in seconds."""

    type: Literal["duration"]
    seconds: float


class AudioTokens(TypedDict):
    """The kinds of input tokens."""

    audio_tokens: int
    text_tokens: int


@documented
class TranscriptTokens(TypedDict):
    """The same in tokens, as OpenAI's events have it."""

    type: Literal["tokens"]
    input_tokens: int
    """Frames of 20 ms."""
    input_token_details: AudioTokens
    output_tokens: int
    total_tokens: int
    seconds: float


@documented
class SpokenLanguage(TypedDict):
    """A language that is spoken."""

    code: str
    """ISO 639-1."""


@documented
class TokenLogprob(TypedDict):
    """A token of the transcript."""

    token: str
    logprob: float
    """The natural logarithm of its probability."""
    bytes: list[int]
    """Its UTF-8. A character may be divided between tokens."""


@documented
class PlainTranscript(TypedDict):
    """The answer in the format `json`."""

    text: str
    languages: list[SpokenLanguage]
    """Those that were spoken, in order."""
    usage: DurationUsage
    logprobs: NotRequired[list[TokenLogprob]]
    """With `include[]=logprobs`."""


@documented
class TranscriptSegment(TypedDict):
    """A phrase. Times are in seconds of the recording."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    language: NotRequired[str]
    speaker: NotRequired[str]
    """Who speaks, if the recording was diarized or has separate channels."""


class TranscriptWord(TypedDict):
    """A word. Times are in seconds of the recording."""

    word: str
    start: float
    end: float
    speaker: NotRequired[str]


@documented
class VerboseTranscript(TypedDict):
    """The answer in the format `verbose_json`."""

    task: Literal["transcribe", "translate"]
    language: str
    """The name of the language of most of the speech; of a translation it is English."""
    duration: float
    """The length of the recording in seconds."""
    text: str
    usage: DurationUsage
    segments: NotRequired[list[TranscriptSegment]]
    words: NotRequired[list[TranscriptWord]]
    """With `timestamp_granularities[]=word`."""


class DiarizedSegment(TypedDict):
    """A phrase of one speaker, which is also an event. Times are in seconds of the recording."""

    type: Literal["transcript.text.segment"]
    id: str
    start: float
    end: float
    text: str
    speaker: str


@documented
class DiarizedTranscript(TypedDict):
    """The answer in the format `diarized_json`."""

    task: Literal["transcribe", "translate"]
    duration: float
    """The length of the recording in seconds."""
    text: str
    segments: list[DiarizedSegment]
    usage: DurationUsage


@documented
class TranscriptDelta(TypedDict):
    """The event of more text. All deltas together are the transcript."""

    type: Literal["transcript.text.delta"]
    delta: str
    logprobs: NotRequired[list[TokenLogprob]]
    """With `include[]=logprobs`."""
    words: NotRequired[list[TranscriptWord]]
    """With `timestamp_granularities[]=word`: the words of the delta. Their speakers come with the segments at the end."""


@documented
class TranscriptDone(TypedDict):
    """The last event."""

    type: Literal["transcript.text.done"]
    text: str
    languages: list[SpokenLanguage]
    usage: TranscriptTokens
    logprobs: NotRequired[list[TokenLogprob]]
    """With `include[]=logprobs`, if there are few. The deltas have all of them."""


TranscriptEvent = TranscriptDelta | DiarizedSegment | TranscriptDone
