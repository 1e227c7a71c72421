"""A stream that was opened again elsewhere goes on where the lost one was: nothing is said twice, and nothing is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from deployments.engines.protocols import Segment, Transcript
from deployments.engines.streaming import PartialTranscript
from deployments.text.agreement import overlap, words_in
from deployments.text.sentences import joined


class Continuation:
    """What the client has of a turn whose stream begins, at another replica, at sample `samples` of the turn: `settled` is
    what the sound before says, and `given` the committed words after that."""

    def __init__(self, samples: int = 0, settled: str = "", given: Sequence[str] = (), rate: int = 16_000) -> None:
        self.samples = samples
        self._settled = settled
        self._given = list(given)
        self._said: int | None = None if self._given else 0
        """How many words of the new stream the client has; None while the new stream has not committed all of them."""
        self._rate = rate

    @classmethod
    def after(cls, partial: PartialTranscript | None) -> Continuation:
        """What follows this answer of a stream that was lost."""
        if partial is None:
            return cls()
        settled = partial.committed[: partial.settled_characters]
        return cls(partial.settled_samples, settled, words_in(partial.committed[partial.settled_characters :]))

    def applied(self, partial: PartialTranscript) -> PartialTranscript:
        """An answer of the new stream as one of the whole turn."""
        if not self.samples and not self._given:
            return partial
        committed, tentative = words_in(partial.committed), words_in(partial.tentative)
        if self._said is None:
            covered, said = overlap(self._given, committed)
            if covered == len(self._given) and said:
                self._said = said
        if self._said is None:
            words = committed + tentative
            new, later = list[str](), words[overlap(self._given, words)[1] :]
        else:
            new, later = committed[self._said :], tentative
        if partial.last:
            new, later = new + later, []
        text = joined([self._settled, *self._given, *new])
        settled_samples, settled_text = self._settled_with(partial)
        return replace(
            partial,
            committed=text,
            tentative=joined([self._settled, *self._given, *new, *later])[len(text) :],
            heard_samples=partial.heard_samples + self.samples,
            transcript=partial.transcript and self._whole(partial.transcript, text),
            settled_samples=settled_samples,
            settled_characters=len(settled_text),
        )

    def _settled_with(self, partial: PartialTranscript) -> tuple[int, str]:
        """Up to where the turn is settled, and what it says until there."""
        words = words_in(partial.committed[: partial.settled_characters])
        if self._said is None or len(words) < self._said:
            return self.samples, self._settled
        text = joined([self._settled, *self._given, *words[self._said :]])
        return self.samples + partial.settled_samples, text

    def _whole(self, transcript: Transcript, text: str) -> Transcript:
        """The transcript of the turn: what was settled as one segment, and the rest with its times if it is the same text."""
        start_s = self.samples / self._rate
        before = [Segment(self._settled, 0.0, start_s, 0.0, 0.0)] if self._settled else []
        rest = text[len(self._settled) :].strip()
        segments = [segment.moved(start_s) for segment in transcript.segments]
        if joined(segment.text for segment in segments) != rest:
            end_s = segments[-1].end if segments else start_s
            segments = [Segment(rest, start_s, end_s, 0.0, 0.0)] if rest else []
        return replace(transcript, segments=(*before, *segments))
