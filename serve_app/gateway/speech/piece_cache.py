"""The sound of pieces that were spoken before, so that a client that reconnects needs no new synthesis."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from cachetools import LRUCache

from deployments.engines.forgotten_voices import ForgottenVoices
from deployments.engines.protocols import AudioChunk, SpeechRequest

ENTRY_BYTES = 1024
"""About what a kept chunk, or the entry that it is in, takes beside its samples, its text and its words. Without it, pieces
without sound would cost nothing and stay for ever."""
WORD_BYTES = 192

Chunks = tuple[AudioChunk, ...]
Key = tuple[str, str]
"""The voice of a piece, and the digest of everything that decides its samples."""


class PieceCache:
    """Keeps pieces of any model in at most `max_bytes`. The least recently used ones go first."""

    def __init__(self, max_bytes: int) -> None:
        self._pieces: LRUCache[Key, Chunks] = LRUCache(max_bytes, getsizeof=_size)
        self._forgotten = ForgottenVoices()

    @property
    def bytes(self) -> int:
        """About what the kept pieces take."""
        return int(self._pieces.currsize)

    @property
    def voices(self) -> set[str]:
        """The voices with which the kept pieces were spoken."""
        return {voice for voice, _ in self._pieces}

    def of_model(self, model: str, weights: str) -> ModelPieces:
        """The part of the cache that holds a model's pieces. `weights` says what decides its results: another model may get
        the same name."""
        return ModelPieces(self, model, weights)

    def forget_voice(self, voice: str) -> None:
        """Drops all that was spoken with a voice, and keeps nothing more of it, as from streams that have begun."""
        self._forgotten.add(voice)
        for key in [key for key in self._pieces if key[0] == voice]:
            del self._pieces[key]

    def get(self, key: Key) -> Chunks | None:
        """The chunks of a piece; None if it is not here."""
        return self._pieces.get(key)

    def put(self, key: Key, chunks: Chunks) -> None:
        """Keeps the chunks of a whole piece, unless they alone are over the limit, or the voice was deleted."""
        if key[0] in self._forgotten:
            return
        with suppress(ValueError):  # cachetools refuses an item that alone is over the limit
            self._pieces[key] = chunks


@dataclass(frozen=True, slots=True)
class ModelPieces:
    """The cache as the speech driver asks it, for one model. See `PieceStore`."""

    cache: PieceCache
    model: str
    weights: str

    async def get(self, request: SpeechRequest, index: int, tempo: float) -> Chunks | None:
        """See `PieceStore`."""
        return self.cache.get(self._key(request, index))

    async def keep(self, request: SpeechRequest, index: int, chunks: Sequence[AudioChunk]) -> None:
        """See `PieceStore`."""
        self.cache.put(self._key(request, index), tuple(chunks))

    def _key(self, request: SpeechRequest, index: int) -> Key:
        """Everything that decides the samples of a piece."""
        piece = request.pieces[index - request.first_index]
        manner = (request.voice, request.speed, request.seed, request.instructions)
        return request.voice, hashlib.sha256(
            json.dumps((self.model, self.weights, *manner, index, piece)).encode()
        ).hexdigest()


def _size(chunks: Chunks) -> int:
    return ENTRY_BYTES + sum(
        ENTRY_BYTES + chunk.samples.nbytes + 4 * len(chunk.text) + WORD_BYTES * len(chunk.words) for chunk in chunks
    )
