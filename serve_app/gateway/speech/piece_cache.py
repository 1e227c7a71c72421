"""Sound that was made already, by content, so that a client that comes back hears on without a new synthesis."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from deployments.engines.protocols import AudioChunk, SpeechRequest

ENTRY_BYTES = 1024
"""What a kept chunk, or the entry it is in, takes beside its samples and its text, about. Without it pieces of which nothing
is heard would cost nothing, and be kept for ever."""

Call = Callable[[SpeechRequest], AsyncGenerator[AudioChunk]]


class PieceCache:
    """The least recently used pieces go when the whole is over `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._pieces: OrderedDict[str, tuple[AudioChunk, ...]] = OrderedDict()
        self.bytes = 0

    def get(self, key: str) -> tuple[AudioChunk, ...] | None:
        """A piece's chunks."""
        if key in self._pieces:
            self._pieces.move_to_end(key)
        return self._pieces.get(key)

    def put(self, key: str, chunks: tuple[AudioChunk, ...]) -> None:
        """Keeps a whole piece."""
        if key in self._pieces:
            return
        self._pieces[key] = chunks
        self.bytes += _size(chunks)
        while self.bytes > self._max_bytes:
            _, oldest = self._pieces.popitem(last=False)
            self.bytes -= _size(oldest)

    def through(self, model: str, call: Call) -> Call:
        """The same call, asking for nothing that is here."""

        async def cached(request: SpeechRequest) -> AsyncGenerator[AudioChunk]:
            ahead = 0
            while ahead < len(request.pieces) and (kept := self.get(_key(model, request, ahead))) is not None:
                ahead += 1
                for chunk in kept:
                    yield replace(chunk, last=chunk.last and ahead == len(request.pieces))
            if ahead < len(request.pieces):
                rest = replace(request, pieces=request.pieces[ahead:], first_index=request.first_index + ahead)
                async with aclosing(self._keeping(model, rest, call(rest))) as chunks:
                    async for chunk in chunks:
                        yield chunk

        return cached

    async def _keeping(
        self, model: str, request: SpeechRequest, chunks: AsyncGenerator[AudioChunk]
    ) -> AsyncGenerator[AudioChunk]:
        """Passes chunks on, and keeps each piece once it is whole."""
        piece: list[AudioChunk] = []
        async with aclosing(chunks):
            async for chunk in chunks:
                if piece and chunk.index != piece[0].index:
                    self._keep(model, request, piece)
                    piece = []
                piece.append(chunk)
                yield chunk
        if piece:
            self._keep(model, request, piece)

    def _keep(self, model: str, request: SpeechRequest, piece: list[AudioChunk]) -> None:
        self.put(_key(model, request, piece[0].index - request.first_index), tuple(piece))


def _key(model: str, request: SpeechRequest, position: int) -> str:
    """Everything that decides a piece's samples."""
    index = request.first_index + position
    facts = (model, request.voice, request.speed, request.seed, request.instructions, index, request.pieces[position])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _size(chunks: tuple[AudioChunk, ...]) -> int:
    return ENTRY_BYTES + sum(ENTRY_BYTES + chunk.samples.nbytes + 4 * len(chunk.text) for chunk in chunks)


def stream_key(facts: object) -> str:
    """A short name of a stream's content, for event ids."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
