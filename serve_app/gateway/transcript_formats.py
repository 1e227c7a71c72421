"""Transcripts in the formats of OpenAI, and in RTTM: https://platform.openai.com/docs/api-reference/audio"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal

from starlette.responses import JSONResponse, PlainTextResponse, Response

from deployments.engines.protocols import Segment, Token
from deployments.settings import SubtitleSettings
from deployments.tasks import diarization
from deployments.tasks.diarization import SpeakerTurn, rttm, speaker_letters, with_speakers
from deployments.tasks.transcription import TranscriptWindow, language_of, seconds_of, segments_of, text_of, turns_of
from deployments.text import subtitles
from deployments.text.compression_ratio import compression_ratio
from deployments.text.languages import NAMES
from deployments.text.sentences import pieces
from deployments.text.subtitles import TimedWord
from serve_app.gateway.transcript_answers import (
    DiarizedSegment,
    DiarizedTranscript,
    DurationUsage,
    PlainTranscript,
    SpokenLanguage,
    TokenLogprob,
    TranscriptSegment,
    TranscriptTokens,
    TranscriptWord,
    VerboseTranscript,
)

TranscriptFormat = Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json", "rttm"]
SPEAKER_FORMATS = ("diarized_json", "rttm")
"""The formats that say who speaks."""
TIMED_FORMATS = ("srt", "verbose_json", "vtt", *SPEAKER_FORMATS)
"""The formats that say when something is said."""
UNNAMED = "A"
"""The speaker of a recording in which no speakers were found."""
AUDIO_TOKENS_PER_SECOND = 50
"""Frames of Whisper's encoder (20 ms), as the unit of audio where OpenAI's events count tokens."""
RECORDING = "recording"
"""The name of a recording in RTTM. The service does not use the names of a client's files."""


@dataclass(frozen=True, slots=True)
class TranscriptContents:
    """What an answer contains. `segments` and `words` are the lists of `verbose_json`, `log_probabilities` that of `json`."""

    form: TranscriptFormat = "json"
    task: Literal["transcribe", "translate"] = "transcribe"
    temperature: float = 0.0
    segments: bool = True
    words: bool = False
    log_probabilities: bool = False
    subtitles: SubtitleSettings = field(default_factory=SubtitleSettings)


def rendered(windows: Sequence[TranscriptWindow], contents: TranscriptContents) -> Response:
    """The response with a transcript. Subtitles of two hours take about a second: call it on a thread."""
    if contents.form in _JSON:
        return JSONResponse(_JSON[contents.form](windows, contents))
    media_type = "text/vtt" if contents.form == "vtt" else "text/plain"
    return PlainTextResponse(_TEXT[contents.form](windows, contents), media_type=media_type)


def plain_json(windows: Sequence[TranscriptWindow], contents: TranscriptContents) -> PlainTranscript:
    """The body of the format `json`."""
    answer: PlainTranscript = {"text": text_of(windows), "languages": languages_json(windows), "usage": usage(windows)}
    if contents.log_probabilities:
        answer["logprobs"] = [token for window in windows for token in log_probabilities(window)]
    return answer


def verbose(windows: Sequence[TranscriptWindow], contents: TranscriptContents) -> VerboseTranscript:
    """The body of the format `verbose_json`. Its `language` is that of most of the speech, as a name; of a translation it is
    English."""
    segments = spoken_segments(windows)
    language = "en" if contents.task == "translate" else language_of(windows) or ""
    answer: VerboseTranscript = {
        "task": contents.task,
        "language": NAMES.get(language, language),
        "duration": seconds_of(windows),
        "text": text_of(windows),
        "usage": usage(windows),
    }
    if contents.segments:
        answer["segments"] = [_segment(i, segment, contents.temperature) for i, segment in enumerate(segments)]
    if contents.words:
        answer["words"] = [_word(word) for segment in segments for word in timed_words(segment)]
    return answer


def _segment(number: int, segment: Segment, temperature: float) -> TranscriptSegment:
    answer: TranscriptSegment = {
        "id": number,
        "seek": int(segment.start * 100),
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "tokens": list(segment.tokens),
        "temperature": temperature,
        "avg_logprob": segment.average_log_probability,
        "compression_ratio": compression_ratio(segment.text),
        "no_speech_prob": segment.no_speech_probability,
    }
    if segment.language is not None:
        answer["language"] = segment.language
    if segment.speaker is not None:
        answer["speaker"] = segment.speaker
    return answer


def _word(word: TimedWord) -> TranscriptWord:
    answer: TranscriptWord = {"word": word.text, "start": round(word.start_s, 3), "end": round(word.end_s, 3)}
    if word.speaker:
        answer["speaker"] = word.speaker
    return answer


def words_of(window: TranscriptWindow) -> list[TranscriptWord]:
    """The words of a window, as `verbose_json` has them."""
    return [_word(word) for segment in spoken_segments([window]) for word in timed_words(segment)]


def diarized(windows: Sequence[TranscriptWindow], contents: TranscriptContents) -> DiarizedTranscript:
    """The body of the format `diarized_json`."""
    return {
        "task": contents.task,
        "duration": seconds_of(windows),
        "text": text_of(windows),
        "segments": [diarized_segment(n, segment) for n, segment in enumerate(spoken_segments(windows))],
        "usage": usage(windows),
    }


def diarized_segment(number: int, segment: Segment) -> DiarizedSegment:
    """A segment of `diarized_json`, which is also OpenAI's event."""
    return {
        "type": "transcript.text.segment",
        "id": f"seg_{number:03}",
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text.strip(),
        "speaker": segment.speaker or UNNAMED,
    }


def usage(windows: Sequence[TranscriptWindow]) -> DurationUsage:
    """The length of the recording, as OpenAI's answers have it."""
    return {"type": "duration", "seconds": seconds_of(windows)}


def token_usage(windows: Sequence[TranscriptWindow]) -> TranscriptTokens:
    """The same in tokens, as OpenAI's events have it, with the seconds."""
    seconds = seconds_of(windows)
    heard = round(seconds * AUDIO_TOKENS_PER_SECOND)
    written = sum(window.tokens for window in windows)
    return {
        "type": "tokens",
        "input_tokens": heard,
        "input_token_details": {"audio_tokens": heard, "text_tokens": 0},
        "output_tokens": written,
        "total_tokens": heard + written,
        "seconds": seconds,
    }


def languages_json(windows: Sequence[TranscriptWindow]) -> list[SpokenLanguage]:
    """The languages that were spoken, in order, as OpenAI's `languages`."""
    spoken = (
        segment.language or window.transcript.language for window in windows for segment in window.transcript.segments
    )
    return [{"code": language} for language in dict.fromkeys(spoken)]


def log_probabilities(window: TranscriptWindow) -> list[TokenLogprob]:
    """The tokens of a window, as OpenAI's `logprobs`."""
    return [log_probability(token) for token in window.transcript.tokens]


def log_probability(token: Token) -> TokenLogprob:
    """A token as one of OpenAI's `logprobs`."""
    return {"token": token.text, "logprob": round(token.log_probability, 6), "bytes": list(token.bytes)}


# --- Who speaks


def spoken_segments(windows: Sequence[TranscriptWindow]) -> list[Segment]:
    """Every segment in order of time, with its speaker if the recording was diarized or has separate channels."""
    if turns := turns_of(windows):
        return list(with_speakers(segments_of(windows), turns))
    return segments_of([_with_channel(window) for window in windows])


def _with_channel(window: TranscriptWindow) -> TranscriptWindow:
    """Separate channels are speakers "A", "B" ..."""
    if window.channel is None:
        return window
    name = next(islice(speaker_letters(), window.channel, None))
    segments = tuple(replace(segment, speaker=name) for segment in window.transcript.segments)
    return replace(window, transcript=replace(window.transcript, segments=segments))


def speaker_turns(windows: Sequence[TranscriptWindow]) -> tuple[SpeakerTurn, ...]:
    """Who speaks when: as the sound says, or with separate channels as the transcript says."""
    segments = spoken_segments(windows)
    return turns_of(windows) or diarization.joined(
        SpeakerTurn(segment.start, segment.end, segment.speaker) for segment in segments if segment.speaker
    )


# --- Words


def timed_words(segment: Segment) -> Iterator[TimedWord]:
    """The words of a segment. Without times of words they share the segment's time by their lengths."""
    if not segment.words:
        yield from _guessed(segment)
        return
    for number, word in enumerate(segment.words):
        if text := " ".join(word.text.split()):
            attached = number > 0 and not word.text[0].isspace()
            yield TimedWord(text, word.start, word.end, segment.speaker, attached)


def _guessed(segment: Segment) -> Iterator[TimedWord]:
    texts = list(pieces(segment.text))
    letters, passed = sum(len(text) for text, _ in texts), 0
    for text, attached in texts:
        start, passed = passed, passed + len(text)
        start_s, end_s = (segment.start + (segment.end - segment.start) * at / letters for at in (start, passed))
        yield TimedWord(text, start_s, end_s, segment.speaker, attached)


def _words(windows: Sequence[TranscriptWindow]) -> list[TimedWord]:
    return [word for segment in spoken_segments(windows) for word in timed_words(segment)]


_JSON: Mapping[str, Callable[[Sequence[TranscriptWindow], TranscriptContents], Mapping[str, object]]] = {
    "json": plain_json,
    "verbose_json": verbose,
    "diarized_json": diarized,
}
_TEXT: Mapping[str, Callable[[Sequence[TranscriptWindow], TranscriptContents], str]] = {
    "text": lambda windows, _: text_of(windows) + "\n",
    "srt": lambda windows, contents: subtitles.srt(_words(windows), seconds_of(windows), contents.subtitles),
    "vtt": lambda windows, contents: subtitles.vtt(_words(windows), seconds_of(windows), contents.subtitles),
    "rttm": lambda windows, _: rttm(speaker_turns(windows), RECORDING),
}
