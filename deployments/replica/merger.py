"""The deployments that join separated chunks. They hold no model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from deployments.audio.chunking import ChunkPlan
from deployments.engines.protocols import Chunk, Stems
from deployments.errors import Failure
from deployments.replica.chunker import Chunker
from deployments.replica.error_log import ignore_unwritten_lines, logged_failure
from deployments.replica.malloc_trim import return_freed_memory
from deployments.tasks.separation import Merged, join_stems, silent_stems


class Merger:
    """Joins neighbouring chunks. It keeps nothing, so any replica can do any join."""

    def __init__(self) -> None:
        ignore_unwritten_lines()
        return_freed_memory()

    async def join(
        self, previous: Stems | Failure | None, current: Stems | Failure, plan: ChunkPlan, last: bool
    ) -> Merged | Failure:
        """The samples that are finished once `current` is there; a failure upstream is returned as it is."""
        if isinstance(previous, Failure):
            return previous
        if isinstance(current, Failure):
            return current
        try:
            return await asyncio.to_thread(join_stems, previous, current, plan, last)
        except Exception as error:
            return logged_failure(error, "The merger")

    async def arrived(self, stems: Stems | Failure) -> Failure | None:
        """Answers when a chunk's stems are there, so that the gateway knows without fetching them."""
        return stems if isinstance(stems, Failure) else None

    async def silence(self, chunk: Chunk | Failure, names: Sequence[str]) -> Stems | Failure:
        """Silent stems in place of those of a chunk; a failure upstream is returned as it is."""
        return chunk if isinstance(chunk, Failure) else silent_stems(chunk, names)


class AudioHelper(Chunker, Merger):
    """Cuts and merges in one process: on one machine both share its cores anyway, and a second Ray process would cost its
    memory."""
