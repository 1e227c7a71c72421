"""The finished parts of a job, such as windows that were transcribed: a job that is taken up again does not make them again.

A part is stored under its content address: a digest of everything that decides it. If the configuration or Motet's version
changed between two attempts, the addresses differ, and parts are made anew.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence

from deployments.errors import MotetError
from serve_app.gateway.jobs import blob_table
from serve_app.gateway.jobs.blob_store import PARTS, BlobWriter
from serve_app.gateway.jobs.blobs import Blobs
from serve_app.gateway.jobs.database import JobDatabase
from serve_app.gateway.jobs.settings import JobSettings

logger = logging.getLogger("ray.serve")


class FinishedParts:
    """The parts of one job. A part that cannot be read or kept is made again, which is logged."""

    def __init__(
        self,
        job: str,
        blobs: Blobs,
        database: JobDatabase,
        settings: JobSettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._job = job
        self._blobs = blobs
        self._database = database
        self._settings = settings
        self._clock = clock
        self._paths: dict[str, str] = {}
        self.advanced = False
        """Whether a part was kept since this attempt began."""

    async def load(self) -> None:
        """Finds out which parts there are, and drops all that the store has lost: each one that is found to be lost later
        costs the job an attempt."""
        noted = await self._database.run(blob_table.parts_of, self._job)
        self._paths = {address: part.path for address, part in noted.items()}
        if not noted:
            return
        try:
            sizes = await asyncio.to_thread(self._sizes)
        except OSError as error:
            logger.warning("The finished parts of %s cannot be listed: %s", self._job, error)
            return
        self._paths = {address: part.path for address, part in noted.items() if sizes.get(part.path) == part.bytes}
        if lost := [address for address in noted if address not in self._paths]:
            logger.warning("%d finished parts of %s are lost, and are made again.", len(lost), self._job)
            await self._drop(lost)

    def has(self, address: str) -> bool:
        """Whether the part is there."""
        return address in self._paths

    async def get(self, address: str) -> bytes | None:
        """The part; None if it is not there."""
        path = self._paths.get(address)
        if path is None:
            return None
        try:
            return await asyncio.to_thread(self._blobs.store.read, path)
        except OSError as error:
            logger.warning("A finished part of %s cannot be read: %s", self._job, error)
            self._paths.pop(address, None)
            await self._drop([address])
            return None

    async def keep(self, address: str, data: bytes) -> None:
        """Keeps a part, if there is room."""
        path = f"{self._folder}/{address}.{secrets.token_hex(4)}"
        try:
            most = self._settings.max_bytes
            await self._database.run(blob_table.expect, path, len(data), most, self._clock())
            await asyncio.to_thread(self._write, path, data)
            now_s = self._clock()
            kept = await self._database.run(blob_table.keep_part, self._job, address, path, len(data), now_s)
            if kept is not None:
                self._paths[address] = kept
                self.advanced = self.advanced or kept == path  # otherwise it was there already
        except (MotetError, OSError) as error:
            logger.warning("A finished part of %s is not kept: %s", self._job, error)

    @property
    def _folder(self) -> str:
        return f"{PARTS}/{self._job}"

    async def _drop(self, addresses: Sequence[str]) -> None:
        await self._database.run(blob_table.drop_parts, self._job, self._clock(), addresses)

    def _sizes(self) -> Mapping[str, int]:
        return self._blobs.store.sizes(self._folder)

    def _write(self, path: str, data: bytes) -> None:
        writer: BlobWriter = self._blobs.store.writer()
        try:
            writer.write(data)
            writer.close()
            self._blobs.store.put(writer, path)
        finally:
            writer.discard()
