"""Families of models that hear a stream while it is spoken, chunk by chunk.

The state of a stream is a value: a chunk makes a new one, and nothing of a stream stays in the adapter. A chunk that fails
leaves the state as it was.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from deployments.engines.hf_recognition.adapter import (
    EmittedToken,
    FamilyAdapter,
    Hypothesis,
    TextToken,
    TokenTexts,
)
from deployments.engines.hf_recognition.stream_sound import StreamSound
from deployments.engines.protocols import RecognitionOptions, Samples

StateT = TypeVar("StateT")
PAUSE_S = 0.64
"""After a pause of this length, what was said before it is certain to be written."""
AFTER_SPEECH_S = 0.32
"""The part of a pause that belongs to the speech before it: a model may write a word so much later."""


@dataclass(frozen=True, slots=True)
class ChunkResult(Generic[StateT]):
    """The state of a stream after a chunk, the tokens that the chunk made final, and those that may still change.

    A new stream that began at the sample `settled` would say what follows all of them; None if that is not certain.
    """

    state: StateT
    emitted: Sequence[EmittedToken]
    tentative: Sequence[EmittedToken] = ()
    settled: int | None = None


class StreamingFamily(FamilyAdapter, Generic[StateT]):
    """A family that streams by itself. All positions are samples of the stream."""

    @abstractmethod
    def start(self, options: RecognitionOptions) -> StateT:
        """The state of a new stream."""

    @abstractmethod
    def needed(self, state: StateT) -> int:
        """Where the sound of the next chunk ends, its look-ahead included. No later sample changes its result."""

    @abstractmethod
    def advance(self, states: Sequence[StateT], sounds: Sequence[StreamSound]) -> list[ChunkResult[StateT]]:
        """The next chunk of each stream, computed as one batch. Changes neither `states` nor `sounds`."""

    @abstractmethod
    def heard(self, state: StateT) -> int:
        """The end of the sound that the text covers."""

    @abstractmethod
    def first_kept(self, state: StateT) -> int:
        """The first sample that a later chunk needs."""

    @abstractmethod
    def padded(self, samples: int) -> int:
        """The length of a stream whose speech ended after `samples`, with the silence that lets the model emit all of
        it."""

    @property
    def language_tags(self) -> Mapping[int, str]:
        """Two-letter codes by the tokens that name languages. These tokens are not part of the text."""
        return {}

    def recognize(self, windows: Sequence[Samples], options: RecognitionOptions) -> list[Hypothesis]:
        """Hears each window (n,) as a stream."""
        streams = [HfStream(self, options) for _ in windows]
        for stream, window in zip(streams, windows, strict=True):
            stream.sound.push(window)
            stream.end(len(window))
        hear(self, streams)
        for stream in streams:
            if stream.failure is not None:
                raise stream.failure
        return [stream.hypothesis() for stream in streams]


@dataclass(eq=False)
class HfStream(Generic[StateT]):
    """The state of one stream. The caller owns it."""

    family: StreamingFamily[StateT]
    options: RecognitionOptions
    sound: StreamSound = field(default_factory=StreamSound)
    tokens: list[TextToken] = field(default_factory=list)
    tentative: Sequence[EmittedToken] = ()
    spoken: int | None = None
    failure: Exception | None = None
    finished: bool = False
    closed: bool = False

    def __post_init__(self) -> None:
        self.state = self.family.start(self.options)
        self.language: str | None = None
        self._texts = TokenTexts(self.family.tokenizer, self.family.language_tags)
        self._committed = ""
        self.settled = (0, 0)
        """The samples and the characters of which `PartialTranscript` says that they are settled."""

    @property
    def is_ready(self) -> bool:
        """Whether the sound is enough for the next chunk."""
        over = self.finished or self.closed or self.failure is not None
        return not over and self.family.needed(self.state) <= self.sound.length

    @property
    def heard(self) -> int:
        """The samples that the text covers."""
        return self.family.heard(self.state)

    @property
    def committed(self) -> str:
        """The text that is final."""
        return self._committed.strip()

    @property
    def preview(self) -> str:
        """The text that follows and may still change."""
        if not self.tentative:
            return ""
        return (self._committed + self._texts.preview(self.tentative)).strip()[len(self.committed) :]

    def end(self, samples: int) -> None:
        """The speech ended after the first `samples`. No chunk follows if the text covers them."""
        self.spoken = samples
        self.sound.end(samples, self.family.padded(samples) if self.heard < samples else 0)

    def take(self, result: ChunkResult[StateT]) -> None:
        """Goes on to the state after a chunk."""
        self.state, self.tentative = result.state, result.tentative
        self._commit(result.emitted)
        if result.settled is not None:
            self.settled = result.settled, len(self.committed)
        self.sound.drop(self.family.first_kept(self.state))

    def complete(self) -> None:
        """All that was heard becomes final."""
        self._commit(self.tentative)
        self.tentative, self.finished = (), True

    def hypothesis(self) -> Hypothesis:
        """The whole text; that which may still change becomes final."""
        self.complete()
        return Hypothesis(self.committed, tuple(self.tokens), self.language)

    def _commit(self, tokens: Sequence[EmittedToken]) -> None:
        for token in tokens:
            self.language = self.family.language_tags.get(token.id, self.language)
            made = self._texts.add(token)
            if made is not None:
                self.tokens.append(made)
                self._committed += made.text


def hear(family: StreamingFamily[Any], streams: Sequence[HfStream[Any]]) -> None:
    """Hears all whole chunks of the streams. Chunks of several streams are one batch; a stream that fails keeps its error."""
    while ready := [stream for stream in streams if stream.is_ready]:
        _advance(family, ready)


def _advance(family: StreamingFamily[Any], streams: Sequence[HfStream[Any]]) -> None:
    try:
        results = family.advance([stream.state for stream in streams], [stream.sound for stream in streams])
    except Exception as error:
        if len(streams) == 1:
            streams[0].failure = error
            return
        for stream in streams:
            _advance(family, [stream])
        return
    for stream, result in zip(streams, results, strict=True):
        stream.take(result)
