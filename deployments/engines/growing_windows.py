"""Streaming recognition with any engine that hears windows: a window grows with the sound and is heard again and again.

Words are committed when two hearings in a row agree on them (`text/agreement.py`). The cost of a hearing is that of the whole
window, so a window is kept short: it is cut at a pause, and the part before is heard once more, by itself and thoroughly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from deployments.audio.pauses import pauses_of
from deployments.audio.stream_tail import StreamTail
from deployments.audio.voice_activity import has_speech
from deployments.engines.protocols import (
    Effort,
    RecognitionEngine,
    RecognitionOptions,
    RecognitionTraits,
    Samples,
    Segment,
    Token,
    Transcript,
    Window,
)
from deployments.engines.recognition import SAMPLE_RATE, check_options
from deployments.engines.streaming import PartialTranscript
from deployments.errors import fail
from deployments.text.agreement import agreed, overlap, words_in
from deployments.text.compression_ratio import compression_ratio
from deployments.text.sentences import joined

CUT_AFTER_S = 7.0
"""A window that is longer is cut at the next clear pause. At a cut words are heard twice or not at all: on 42 sentences, with
Whisper tiny.en, cuts after 5 s gave 4.6 % wrong words, and after 7, 8 and 10 s 2.4 %, as many as without a cut. A hearing
costs a tenth more with 7 s than with 5."""
LONGEST_S = 10.0
"""A window that is longer is cut at its longest pause, or at its quietest moment if there is none."""
LEAST_S, LEAST_REST_S = 2.5, 1.0
"""Seconds of sound before and after a cut, at least."""
CLEAR_PAUSE_S = 0.2
QUIET_WIDTH_S = 0.1
"""The length over which loudness is measured to find the quietest moment."""
AFTER_SPEECH_S = 0.3
"""Sound after the end of speech that a hearing contains, so that soft last consonants are in it."""
CONTEXT_S = 0.5
"""Sound before the new one that the voice activity network hears, too."""
PAUSE_S = 1.0
"""A silence of this length ends a window: all that was heard is committed."""
MOST_REPETITIVE = 2.4
"""Compression ratio of a text that repeats itself (openai/whisper, transcribe.py)."""

HasSpeech = Callable[[Samples, int], bool]
"""Whether mono samples contain speech from a sample on."""


@dataclass(slots=True, eq=False)
class GrowingStream:
    """The state of one stream. Positions are in samples from the start of the stream."""

    options: RecognitionOptions
    language: str | None
    """The language, once words are committed in it."""
    sound: StreamTail = field(default_factory=StreamTail)
    pushed: int = 0
    start: int = 0
    """Where the window begins."""
    heard: int = 0
    """What the text covers."""
    spoken: int = 0
    """Where the sound of the latest hearing ended."""
    end: int | None = None
    """Where the speech ended, once `finish` was called."""
    has_speech: bool = False
    """Whether the window contains speech."""
    text: str = ""
    """What the windows before say."""
    committed: list[str] = field(default_factory=list)
    """The window's words that are final."""
    tentative: list[str] = field(default_factory=list)
    """The words of the latest hearing after those."""
    transcript: Transcript | None = None
    """The latest hearing."""
    segments: list[Segment] = field(default_factory=list)
    """What the windows before say, with its times in the stream."""
    tokens: list[Token] = field(default_factory=list)
    """The tokens of the windows before, as they were heard last."""
    failure: Exception | None = None
    """What is wrong with the sound that was pushed."""
    finished: bool = False

    @property
    def until(self) -> int:
        """Where the sound ends that is worth hearing."""
        return self.pushed if self.end is None else min(self.pushed, self.end + int(AFTER_SPEECH_S * SAMPLE_RATE))

    @property
    def is_covered(self) -> bool:
        """Whether the latest hearing contains all of the speech."""
        return self.heard >= (self.pushed if self.end is None else min(self.pushed, self.end))


class GrowingWindows:
    """Makes a `StreamingRecognition` of an engine whose windows are mono samples at 16 kHz."""

    def __init__(self, engine: RecognitionEngine, speaks: HasSpeech = has_speech) -> None:
        self._engine = engine
        self._speaks = speaks

    @property
    def traits(self) -> RecognitionTraits:
        """The engine's."""
        return self._engine.traits

    def open(self, options: RecognitionOptions) -> GrowingStream:
        """A new stream. Raises `MotetError` (unsupported) for options that the engine cannot follow."""
        check_options(options, self.traits)
        return GrowingStream(options, options.language)

    def push(self, stream: GrowingStream, samples: Samples) -> None:
        """Appends mono (n,) samples at 16 kHz. After samples that are not finite all steps of the stream fail."""
        if samples.ndim != 1 or not np.isfinite(samples).all():
            stream.failure = fail("invalid", "The sound has samples that are not finite numbers.", "Send other sound.")
            return
        stream.sound.push(samples)
        stream.pushed += len(samples)

    def finish(self, stream: GrowingStream, samples: int) -> None:
        """The speech ended after the first `samples` of the stream."""
        stream.end = samples

    def cost(self, stream: GrowingStream) -> float:
        """Seconds of sound of the next hearing; 0 if all was heard."""
        return 0.0 if stream.is_covered else (stream.until - stream.start) / SAMPLE_RATE

    def close(self, stream: GrowingStream) -> None:
        """Forgets the sound."""
        stream.sound = StreamTail()
        stream.finished = True

    def step(self, streams: Sequence[GrowingStream]) -> list[PartialTranscript | Exception]:
        """Hears what was pushed, for all streams as one batch. A stream without new speech costs nothing."""
        parts = [self._parts(stream) for stream in streams]
        windows = [
            self._window(stream, part, is_last=part is of[-1])
            for stream, of in zip(streams, parts, strict=True)
            for part in of
        ]
        results = iter(self._engine.transcribe(windows) if windows else [])
        heard = [[next(results) for _ in of] for of in parts]
        return [_after(*each) for each in zip(streams, parts, heard, strict=True)]

    def _parts(self, stream: GrowingStream) -> list[tuple[int, int]]:
        """The windows to hear, as start and end: more than one if the stream's window is cut, none if it has no new
        speech."""
        if stream.failure or stream.is_covered or not self._says_more(stream):
            return []
        cuts = [stream.start + cut for cut in cuts_of(stream.sound.between(stream.start, stream.until))]
        return list(pairwise([stream.start, *cuts, stream.until]))

    def _says_more(self, stream: GrowingStream) -> bool:
        """Whether there is speech that no hearing contains. Silence is covered without a hearing."""
        after_speech, context = int(AFTER_SPEECH_S * SAMPLE_RATE), int(CONTEXT_S * SAMPLE_RATE)
        new = max(stream.start, stream.heard - after_speech) if stream.has_speech else stream.start
        first = max(stream.start, new - context)
        if self._speaks(stream.sound.between(first, stream.until), new - first):
            stream.has_speech = True
            return True
        stream.heard = stream.until
        if stream.until - stream.spoken >= PAUSE_S * SAMPLE_RATE:
            _end_window(stream, stream.until - context)
        return False

    def _window(self, stream: GrowingStream, part: tuple[int, int], *, is_last: bool) -> Window:
        effort: Effort = "least" if is_last and stream.end is None else "bounded"
        options = replace(stream.options, language=stream.language, effort=effort)
        return Window(stream.sound.between(*part), options)


def _after(
    stream: GrowingStream, parts: Sequence[tuple[int, int]], results: Sequence[Transcript | Exception]
) -> PartialTranscript | Exception:
    """Takes the hearings of a step into the stream, and gives what is known now. A failed hearing changes nothing."""
    if stream.failure:
        return stream.failure
    transcripts = []
    for result in results:
        if isinstance(result, Exception):
            return result
        transcripts.append(result)
    for number, ((_, end), transcript) in enumerate(zip(parts, transcripts, strict=True), 1):
        stream.heard = stream.spoken = end
        if number < len(parts):
            _take_part(stream, end, transcript, transcripts[number])
        else:
            _compare(stream, transcript)
    if stream.end is not None:
        _end_window(stream, stream.until)
        stream.finished = True
    return _partial(stream)


def _compare(stream: GrowingStream, transcript: Transcript) -> None:
    """Commits the words on which this hearing of the window agrees with the one before. Its last word is not among them:
    it touches the end of the sound, and may be half a word."""
    words = _words_of(transcript)
    if words is None:
        return
    rest = words[overlap(stream.committed, words)[1] :]
    count = min(agreed(stream.tentative, rest), max(0, len(rest) - 1))
    if count:
        stream.language = transcript.language
    stream.committed += rest[:count]
    stream.tentative = rest[count:]
    stream.transcript = transcript


def _take_part(stream: GrowingStream, end: int, transcript: Transcript, following: Transcript) -> None:
    """Takes the hearing of the window's part before a cut at `end`. The window goes on with the words after the cut, of which
    the first are in the `following` hearing."""
    words, stream.transcript = _words_of(transcript), transcript
    if words is None:
        words = _without_end(stream.committed + stream.tentative, _words_of(following) or [])
    covered, said = overlap(stream.committed, words)
    rest = words[said:]
    after, later = stream.committed[covered:], stream.tentative
    if not after:
        later = later[overlap(later, rest)[0] :]
    stream.committed, stream.tentative = stream.committed[:covered], rest
    _end_window(stream, end)
    stream.committed, stream.tentative, stream.has_speech = after, later, True


def _without_end(known: Sequence[str], following: Sequence[str]) -> list[str]:
    """The known words without the longest end of them with which the following hearing begins."""
    ends = (at for at in range(len(known)) if agreed(known[at:], following) == len(known) - at)
    return [*known[: next(ends, len(known))]]


def _end_window(stream: GrowingStream, end: int) -> None:
    """Commits all words of the window, and begins a new one at `end`."""
    words = stream.committed + stream.tentative
    if words:
        stream.segments.append(_segment(stream, words, end))
        stream.tokens += stream.transcript.tokens if stream.transcript else ()
        stream.text = joined([stream.text, *words])
    stream.committed, stream.tentative, stream.has_speech = [], [], False
    stream.start = max(stream.start, end)
    stream.sound.drop(stream.start)


def _segment(stream: GrowingStream, words: Sequence[str], end: int) -> Segment:
    """What a window says, with times in the stream. Where committed words differ from those of the latest hearing, the times
    of words are those of the nearest of its words."""
    offset_s, text = stream.start / SAMPLE_RATE, joined(words)
    heard = stream.transcript.segments if stream.transcript else ()
    if not heard:
        return Segment(text, offset_s, end / SAMPLE_RATE, 0.0, 0.0)
    timed = [word for segment in heard for word in segment.words]
    places = [at * len(timed) // len(words) for at in range(len(words))] if timed else []
    whole = replace(
        heard[0],
        text=text,
        end=heard[-1].end,
        tokens=tuple(token for segment in heard for token in segment.tokens),
        words=tuple(replace(timed[at], text=word) for at, word in zip(places, words, strict=False)),
    )
    return whole.moved(offset_s)


def _partial(stream: GrowingStream) -> PartialTranscript:
    language = stream.language or (stream.transcript.language if stream.transcript else "en")
    committed = joined([stream.text, *stream.committed])
    whole = joined([stream.text, *stream.committed, *stream.tentative])
    transcript = Transcript(tuple(stream.segments), language, tokens=tuple(stream.tokens)) if stream.finished else None
    return PartialTranscript(
        committed,
        whole[len(committed) :],
        language,
        stream.heard,
        last=stream.finished,
        transcript=transcript,
        settled_samples=stream.start,
        settled_characters=len(stream.text),
    )


def _words_of(transcript: Transcript) -> list[str] | None:
    """The words of a hearing; None for a text that repeats itself, which the engine made up."""
    text = transcript.text
    return None if text and compression_ratio(text) > MOST_REPETITIVE else words_in(text)


def cuts_of(samples: Samples) -> list[int]:
    """Where a window of mono (n,) samples at 16 kHz is cut, in samples."""
    cuts, start = list[int](), 0
    while cut := _first_cut(samples[start:]):
        start += cut
        cuts.append(start)
    return cuts


def _first_cut(samples: Samples) -> int | None:
    seconds = len(samples) / SAMPLE_RATE
    if seconds < CUT_AFTER_S:
        return None
    latest = min(seconds - LEAST_REST_S, LONGEST_S)
    pauses = [(end - start, (start + end) / 2) for start, end in pauses_of(samples[: int(LONGEST_S * SAMPLE_RATE)])]
    length, middle = max((pause for pause in pauses if LEAST_S <= pause[1] <= latest), default=(0.0, 0.0))
    if length >= CLEAR_PAUSE_S or (length and seconds >= LONGEST_S):
        return round(middle * SAMPLE_RATE)
    return _quietest(samples, latest) if seconds >= LONGEST_S else None


def _quietest(samples: Samples, latest_s: float) -> int:
    """The middle of the quietest moment between `LEAST_S` and `latest_s`, in samples."""
    first, width = int(LEAST_S * SAMPLE_RATE), int(QUIET_WIDTH_S * SAMPLE_RATE)
    energy = np.cumsum(np.square(samples[first : int(latest_s * SAMPLE_RATE)], dtype=np.float64))
    return first + int(np.argmin(energy[width:] - energy[:-width])) + width // 2
