"""What a speech session sends: the sound of a text that is being written, and events around that of each piece."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from serve_app.gateway.speech.events import PieceStart
from serve_app.gateway.speech.plan import SpeechPlan
from serve_app.gateway.speech.stream import SpeechStream

MAX_MESSAGE_BYTES = 64 * 1024
"""Sound in one message. Clients refuse long messages, `websockets` those above 1 MiB, and a piece of the text may be longer.
It is even, so that no 16-bit sample is cut in two."""


async def session_messages(stream: SpeechStream, plan: SpeechPlan) -> AsyncGenerator[dict[str, Any] | bytes]:
    """The events of a session, and its sound as bytes, in order."""
    pieces = _PieceEvents(plan)
    async with aclosing(stream.encoded()) as encoded:
        async for data in encoded:
            for piece in stream.piece_starts():
                for message in pieces.start(piece):
                    yield message
            pieces.bytes += len(data)
            for start in range(0, len(data), MAX_MESSAGE_BYTES):
                yield data[start : start + MAX_MESSAGE_BYTES]
            if stream.piece_is_over:
                for message in pieces.end():
                    yield message
            if trouble := stream.new_trouble():
                yield trouble
    for message in pieces.end():
        yield message
    yield {"type": "session.done", "total_sentences": pieces.count, **stream.summary()}


class _PieceEvents:
    """One pair of events for each piece of the text. `bytes` counts the sound of the current one."""

    def __init__(self, plan: SpeechPlan) -> None:
        self.count = 0
        self.bytes = 0
        self._plan = plan
        self._current: PieceStart | None = None

    def start(self, piece: PieceStart) -> Iterator[dict[str, Any]]:
        """The events before the sound of a piece."""
        yield from self.end()
        self.count += 1
        self._current = piece
        yield {
            "type": "audio.start",
            "sentence_index": piece.index,
            "sentence_text": piece.text,
            "start_seconds": piece.start_seconds,
            "format": self._plan.audio_format,
            "sample_rate": self._plan.traits.sample_rate,
            "model": piece.model,
            "voice": piece.voice,
            **({"ignored": list(self._plan.ignored)} if self._plan.ignored else {}),
        }

    def end(self) -> Iterator[dict[str, Any]]:
        """The event after the sound of the current piece, if there is one."""
        if self._current is not None:
            yield {"type": "audio.done", "sentence_index": self._current.index, "total_bytes": self.bytes}
            self._current, self.bytes = None, 0
