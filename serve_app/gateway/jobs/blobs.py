"""Blobs for the gateway: written, read and removed beside the event loop, with their entries in the database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cached_property
from pathlib import Path

from deployments.errors import MotetError, fail
from serve_app.gateway.jobs import blob_table
from serve_app.gateway.jobs.blob_store import BlobStore, BlobWriter
from serve_app.gateway.jobs.blob_table import UNLINKED_AFTER_S
from serve_app.gateway.jobs.database import JobDatabase
from serve_app.gateway.jobs.records import Blob
from serve_app.gateway.jobs.settings import JobSettings

BLOCK_BYTES = 256 * 1024
REMOVED_AT_ONCE = 500
RENEWED_S = blob_table.UNLINKED_AFTER_S / 4
"""How often a request that takes long says that what it wrote shall stay."""


class Blobs:
    """The store with its table."""

    def __init__(
        self, settings: JobSettings, database: JobDatabase, folder: Path, clock: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._database = database
        self._folder = folder
        self._clock = clock

    @cached_property
    def store(self) -> BlobStore:
        """The files, opened at their first use. Raises `MotetError` (unavailable)."""
        return BlobStore(self._folder, self._settings.store)

    async def write(self, blocks: AsyncIterable[bytes]) -> Blob:
        """A blob of some blocks. It is removed later unless a holder is linked to it. Raises `MotetError` (storage_full)."""
        async with self.writing() as sink:
            async for block in blocks:
                await sink.write(block)
            return await sink.close()

    async def write_bytes(self, data: bytes) -> Blob:
        """The same, of bytes."""
        async with self.writing() as sink:
            await sink.write(data)
            return await sink.close()

    @asynccontextmanager
    async def uploads(self) -> AsyncGenerator[Uploads]:
        """Writes blobs, and has them removed soon if the context fails."""
        found = Uploads(self, self._clock)
        try:
            yield found
        except BaseException:
            await asyncio.shield(found.release())
            raise

    async def release(self, blobs: Sequence[Blob]) -> None:
        """Has written blobs removed soon, unless somebody holds them."""
        await self._database.run(blob_table.release, blobs, self._clock())

    async def renew(self, blobs: Sequence[Blob]) -> None:
        """Written blobs that no job and no file has yet stay as long as new ones. Raises `MotetError` (unavailable) if one
        was removed."""
        await self._database.run(blob_table.renew, blobs, self._clock())

    def writing(self) -> AbstractAsyncContextManager[BlobSink]:
        """A blob that is written piece by piece; it is discarded unless it is closed."""
        return self._writing()

    @asynccontextmanager
    async def _writing(self) -> AsyncGenerator[BlobSink]:
        writer = await asyncio.to_thread(lambda: self.store.writer())
        try:
            yield BlobSink(self, writer)
        finally:
            await asyncio.shield(asyncio.to_thread(writer.discard))

    async def put(self, writer: BlobWriter) -> Blob:
        """Moves a written file into the store. Raises `MotetError` (unavailable) if that took so long that it was removed."""
        blob = await asyncio.to_thread(writer.close)
        most, began_s = self._settings.max_bytes, self._clock()
        await self._database.run(blob_table.expect, blob.path, blob.bytes, most, began_s)
        await asyncio.to_thread(self.store.put, writer, blob.path)
        if self._clock() - began_s > RENEWED_S:
            try:
                await self.renew([blob])
            except MotetError:
                await asyncio.to_thread(self.store.remove, [blob.path])
                raise
        return blob

    async def blob(self, digest: str) -> Blob:
        """A blob that somebody holds. Raises `MotetError` (not_found)."""
        return await self._database.run(blob_table.blob_of, digest)

    async def blocks(self, digest: str) -> AsyncGenerator[bytes]:
        """The content of a blob. Raises `MotetError` (not_found) before the first block if it is gone."""
        blob = await self.blob(digest)
        try:
            file = await asyncio.to_thread(self.store.open, blob.path)
        except FileNotFoundError as error:
            raise blob_table.content_not_found() from error
        try:
            while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
                yield block
        finally:
            await asyncio.shield(asyncio.to_thread(file.close))

    async def read(self, digest: str, most: int) -> bytes:
        """The content of a blob of at most `most` bytes. Raises `MotetError` (not_found, too_large)."""
        blob = await self.blob(digest)
        if blob.bytes > most:
            raise fail("too_large", f"The file has {blob.bytes:,} bytes; the limit is {most:,}.", "Send less.")
        return b"".join([block async for block in self.blocks(digest)])

    async def remove_unlinked(self) -> None:
        """Removes the files that nobody holds."""
        while paths := await self._database.run(blob_table.removable, self._clock(), REMOVED_AT_ONCE):
            kept = await asyncio.to_thread(self.store.remove, paths)
            await self._database.run(blob_table.removed, paths, kept, self._clock() + UNLINKED_AFTER_S)
        await asyncio.to_thread(lambda: self.store.sweep())


class Uploads:
    """Blobs that one request wrote. After each write, all of them stay for at least three quarters of
    `UNLINKED_AFTER_S`."""

    def __init__(self, blobs: Blobs, clock: Callable[[], float]) -> None:
        self._blobs = blobs
        self._clock = clock
        self._renewed_s = clock()
        self.written: list[Blob] = []

    async def write(self, blocks: AsyncIterable[bytes]) -> Blob:
        """See `Blobs.write`."""
        return await self._with(await self._blobs.write(blocks))

    async def write_bytes(self, data: bytes) -> Blob:
        """See `Blobs.write_bytes`."""
        return await self._with(await self._blobs.write_bytes(data))

    async def _with(self, blob: Blob) -> Blob:
        self.written.append(blob)
        if self._clock() - self._renewed_s > RENEWED_S:
            self._renewed_s = self._clock()
            await self._blobs.renew(self.written)
        return blob

    async def release(self) -> None:
        """Has them removed soon, unless somebody holds them."""
        await self._blobs.release(self.written)


class BlobSink:
    """A blob that is being written. Small writes are joined."""

    def __init__(self, blobs: Blobs, writer: BlobWriter) -> None:
        self._blobs = blobs
        self._writer = writer
        self._waiting = bytearray()

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._writer.size + len(self._waiting)

    async def write(self, data: bytes) -> None:
        """Adds bytes. Raises `MotetError` (storage_full)."""
        self._waiting += data
        if len(self._waiting) >= BLOCK_BYTES:
            await self._flush()

    async def close(self) -> Blob:
        """Ends the blob, which is in the store then."""
        await self._flush()
        return await self._blobs.put(self._writer)

    async def _flush(self) -> None:
        waiting, self._waiting = self._waiting, bytearray()
        await asyncio.to_thread(self._writer.write, waiting)
