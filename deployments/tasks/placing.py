"""Places a window's transcript in its recording: times, and segments of about a sentence."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, islice

from deployments.engines.protocols import Segment, Span, Transcript, Word
from deployments.text.sentences import sentences

PAUSE_S = 0.5
"""A longer pause between two words ends a segment."""
SNAP_S = 0.4
"""A word this near to an end of its span reaches to it. The attention of Whisper base ends words before a pause 0.17 s early
(95 % within 0.26 s); voice activity is 0.02 s late."""
NEAR_PAUSE_S = 1.5
"""A sentence whose end is estimated ends at a pause that is this near."""
MOMENT_S = 1e-6
LONGEST_SEGMENT_S = 15.0
"""A longer segment of words is cut at the longest pause in its second half."""


def placed(transcript: Transcript, spans: Sequence[Span], *, snap: bool = True) -> Transcript:
    """The transcript of a window made of `spans`, with its times in seconds of the recording.

    A word lies in the span that has its middle, and nowhere else, so none lasts into a silence that was cut out. Words do not
    overlap, and neither do segments. Segments with words are cut where a sentence ends, at long pauses and at
    `LONGEST_SEGMENT_S`. Without words they are cut where a sentence ends, and the times of the cuts are estimates. With
    `snap`, the first and last word of a span reach to its ends if they are near: voice activity knows those better than a
    model's attention.
    """
    if not spans:
        return transcript
    timeline = _Timeline(spans)
    words = _place_words([word for segment in transcript.segments for word in segment.words], timeline, snap)
    segments: list[Segment] = []
    for found in transcript.segments:
        if found.words:
            segments += _of_words(found, list(islice(words, len(found.words))))
        else:
            segments += _without_words(found, timeline, segments[-1].end if segments else 0.0)
    in_languages = (replace(each, language=each.language or transcript.language) for each in segments)
    return replace(transcript, segments=tuple(in_languages))


class _Timeline:
    """From seconds of the window to seconds of the recording."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans = spans
        ends = [span.offset_s + span.end_s - span.start_s for span in spans]
        # Between two spans lies padding, which belongs to the nearer one.
        self._borders = [(end + after.offset_s) / 2 for end, after in zip(ends, spans[1:], strict=False)]

    def span_at(self, seconds: float) -> Span:
        return self._spans[bisect_right(self._borders, seconds)]

    def pause_near(self, seconds: float) -> float | None:
        """The pause between two spans that is nearest; None if it is further than `NEAR_PAUSE_S`."""
        nearest = min(self._borders, key=lambda border: abs(border - seconds), default=None)
        return None if nearest is None or abs(nearest - seconds) > NEAR_PAUSE_S else nearest

    def whole(self, segment: Segment, after: float) -> Segment:
        """A segment that may reach over several spans, in its place; it begins at `after` or later."""
        first, last = self.span_at(segment.start), self.span_at(max(segment.start, segment.end - MOMENT_S))
        start = max(self.place(segment.start, first), after)
        return replace(segment, start=start, end=max(start, self.place(segment.end, last)))

    @staticmethod
    def place(seconds: float, span: Span) -> float:
        return min(max(span.start_s + seconds - span.offset_s, span.start_s), span.end_s)


def _place_words(words: Sequence[Word], timeline: _Timeline, snap: bool) -> Iterator[Word]:
    spans = [timeline.span_at((word.start + word.end) / 2) for word in words]
    reached = 0.0
    for word, span, before, after in zip(words, spans, [None, *spans[:-1]], [*spans[1:], None], strict=True):
        start, end = timeline.place(word.start, span), timeline.place(word.end, span)
        if snap and span is not before and start - span.start_s < SNAP_S:
            start = span.start_s
        if snap and span is not after and span.end_s - end < SNAP_S:
            end = span.end_s
        start = max(start, reached)
        reached = max(start, end)
        yield replace(word, start=start, end=reached)


def _without_words(segment: Segment, timeline: _Timeline, after: float) -> Iterator[Segment]:
    """The sentences of a segment whose words have no times: by their lengths, and by the pauses near those places."""
    texts = [sentence.strip() for sentence in sentences(segment.text) if sentence.strip()]
    if len(texts) < 2:
        texts = [segment.text]
    shares = list(accumulate(map(_letters, texts)))
    edges = [segment.start]
    for share in shares[:-1]:
        estimated = segment.start + (segment.end - segment.start) * share / max(1, shares[-1])
        pause = timeline.pause_near(estimated)
        edges.append(estimated if pause is None or pause <= edges[-1] else pause)
    edges.append(segment.end)
    for text, start, end in zip(texts, edges, edges[1:], strict=False):
        whole = timeline.whole(replace(segment, start=start, end=end), after)
        yield whole if text == segment.text else replace(whole, text=text, tokens=())
        after = whole.end


def _of_words(segment: Segment, words: Sequence[Word]) -> Iterator[Segment]:
    """The segment, cut between its placed words."""
    groups = list(_groups(words))
    if len(groups) == 1:
        yield replace(segment, start=words[0].start, end=words[-1].end, words=tuple(words))
        return
    for group in groups:
        text = "".join(word.text for word in group)
        tokens = tuple(token for word in group for token in word.tokens)
        start, end = group[0].start, group[-1].end
        yield replace(segment, text=text, tokens=tokens, start=start, end=end, words=tuple(group))


def _groups(words: Sequence[Word]) -> Iterator[list[Word]]:
    """The words of each segment."""
    text = "".join(word.text for word in words)
    # Counted without spaces, which are before a word but after a sentence.
    sentence_ends = set(accumulate(_letters(sentence) for sentence in sentences(text)))
    group: list[Word] = []
    letters = 0
    for word in words:
        if group and word.start - group[-1].end > PAUSE_S:
            yield group
            group = []
        group.append(word)
        letters += _letters(word.text)
        if len(group) > 1 and word.end - group[0].start > LONGEST_SEGMENT_S:
            cut = _longest_pause(group)
            yield group[:cut]
            group = group[cut:]
        if letters in sentence_ends:
            yield group
            group = []
    if group:
        yield group


def _longest_pause(words: Sequence[Word]) -> int:
    """The word after the longest pause in the second half of two or more words; the last of equal ones."""
    return max(range((len(words) + 1) // 2, len(words)), key=lambda at: (words[at].start - words[at - 1].end, at))


def _letters(text: str) -> int:
    return sum(not letter.isspace() for letter in text)
