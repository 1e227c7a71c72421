"""The sound of the pieces of a job, which is kept until the job ends: a job that is taken up again does not make it again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import ConfigDict, TypeAdapter

from deployments.engines.protocols import AudioChunk, SpeechRequest
from deployments.replica.wire import PackedChunk, pack, unpack
from serve_app.gateway.jobs.context import KeepsParts, address_of

KEPT_PIECE = TypeAdapter(list[PackedChunk], config=ConfigDict(ser_json_bytes="base64", val_json_bytes="base64"))


@dataclass(frozen=True, slots=True)
class FinishedPieces:
    """A job's finished parts as the speech driver asks them, for one model. `weights` says what decides its sound. See
    `PieceStore`.

    `made` is called with the seconds of sound of a piece that is there, as it is heard."""

    parts: KeepsParts
    model: str
    weights: str
    made: Callable[[float], None] = lambda seconds: None

    async def get(self, request: SpeechRequest, index: int, tempo: float) -> Sequence[AudioChunk] | None:
        """See `PieceStore`."""
        data = await self.parts.get(self._address(request, index))
        if data is None:
            return None
        chunks = await asyncio.to_thread(_chunks, data)
        self.made(sum(chunk.seconds for chunk in chunks) / tempo)
        return chunks

    async def keep(self, request: SpeechRequest, index: int, chunks: Sequence[AudioChunk]) -> None:
        """See `PieceStore`."""
        await self.parts.keep(self._address(request, index), await asyncio.to_thread(_bytes, tuple(chunks)))

    def _address(self, request: SpeechRequest, index: int) -> str:
        piece = request.pieces[index - request.first_index]
        manner = (request.voice, request.speed, request.seed, request.instructions)
        return address_of("piece", self.model, self.weights, manner, index, piece)


def _bytes(chunks: Sequence[AudioChunk]) -> bytes:
    """16-bit samples, as they came from the replica: nothing is lost."""
    return KEPT_PIECE.dump_json([pack(chunk) for chunk in chunks])


def _chunks(data: bytes) -> list[AudioChunk]:
    return [unpack(packed) for packed in KEPT_PIECE.validate_json(data)]
