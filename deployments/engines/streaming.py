"""The protocol of recognition that hears a stream while it is spoken: open, push, step, close, like speech.

An engine that streams by itself implements it natively. For all others `engines/growing_windows.py` implements it with
windows that grow. As everywhere, a stream's state is a value that its caller keeps, all methods run on the engine's thread,
and a step gives one result for each stream: one that fails does not fail its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from deployments.engines.protocols import RecognitionOptions, RecognitionTraits, Samples, Transcript


@dataclass(frozen=True, slots=True)
class PartialTranscript:
    """What was heard of a stream so far.

    `committed` never changes: that of a later step begins with it. `tentative` follows it, with the space
    between them, and may change. `heard_samples` is how much of the stream the text covers. The `last` one has no tentative
    text, and the whole `transcript` with times from the start of the stream.

    The first `settled_characters` of `committed` are what the first `settled_samples` say: another stream that begins there
    says the rest.
    """

    committed: str
    tentative: str
    language: str
    heard_samples: int
    last: bool = False
    transcript: Transcript | None = None
    settled_samples: int = 0
    settled_characters: int = 0


class RecognitionStream(Protocol):
    """The state of one stream: a turn of a conversation, or dictation without an end. Owned by its caller."""

    @property
    def finished(self) -> bool:
        """True after the last transcript."""


StreamT = TypeVar("StreamT", bound=RecognitionStream)


@runtime_checkable
class StreamingRecognition(Protocol[StreamT]):
    """Speech to text while it is spoken. A recognition engine that streams by itself implements it too."""

    @property
    def traits(self) -> RecognitionTraits:
        """The model's abilities."""

    def open(self, options: RecognitionOptions) -> StreamT:
        """A new stream. Raises `MotetError` for options that the model cannot follow."""

    def push(self, stream: StreamT, samples: Samples) -> None:
        """Adds mono (n,) samples at the model's sample rate. Cheap: nothing is computed before the next step."""

    def finish(self, stream: StreamT, samples: int) -> None:
        """No more sound comes, and the speech ended after the first `samples` of the stream; the rest is silence. The next
        step gives the last transcript, without computing if the text covers all of them already."""

    def cost(self, stream: StreamT) -> float:
        """Seconds of sound that the next step works on."""

    def step(self, streams: Sequence[StreamT]) -> list[PartialTranscript | Exception]:
        """Hears what was pushed, for each stream, as one batch."""

    def close(self, stream: StreamT) -> None:
        """Frees what the stream holds; safe to call twice."""
