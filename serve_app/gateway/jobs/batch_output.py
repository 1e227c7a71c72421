"""The output and the errors of a batch: lines of JSON in OpenAI's format, and a file for each sound."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Self

from pydantic_core import from_json

from deployments.audio.formats import FORMATS
from serve_app.gateway.bodies.input_thread import in_input_thread
from serve_app.gateway.bodies.json_bodies import INLINE_BYTES
from serve_app.gateway.jobs.blobs import Blobs, BlobSink
from serve_app.gateway.jobs.records import Blob, Job, JobAnswer, JobBatch, StoredFile, new_id

PURPOSE = "batch_output"
MOST_TEXT_BYTES = 64 * 1024 * 1024
"""A longer text stands in a file of its own."""
EXTENSIONS = {sound.media_type.partition(";")[0]: name for name, sound in FORMATS.items()}


class BatchFiles:
    """Writes the files of one batch. Nobody holds them until their entries are added; they are removed if the context
    fails."""

    def __init__(self, batch: JobBatch, blobs: Blobs, now_s: float, expires_at: float) -> None:
        self._batch = batch
        self._blobs = blobs
        self._now_s = now_s
        self._expires_at = expires_at
        self._sinks: dict[str, BlobSink] = {}
        self._stack = AsyncExitStack()
        self._made: list[StoredFile] = []

    async def __aenter__(self) -> Self:
        self._uploads = await self._stack.enter_async_context(self._blobs.uploads())
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.__aexit__(*error)

    async def write(self, job: Job, custom_id: str) -> None:
        """Adds what a job of the batch answered, if it has ended."""
        if job.answer is None:
            return
        line = {"id": f"batch_req_{job.id.partition('_')[2]}", "custom_id": custom_id, "response": None, "error": None}
        response = {"status_code": job.answer.status, "request_id": job.id}
        if job.answer.error is None:
            body = await self._body(job.answer, custom_id)
            large = job.answer.body is not None and job.answer.body.bytes > INLINE_BYTES
            await self._append("output", {**line, "response": {**response, "body": body}}, large=large)
        elif job.answer.error.get("code") == "job_expired":
            error = {"code": "batch_expired", "message": job.answer.error.get("message")}
            await self._append("error", {**line, "error": error})
        else:
            await self._append("error", {**line, "response": {**response, "body": {"error": job.answer.error}}})

    async def _body(self, answer: JobAnswer, custom_id: str) -> Any:
        """JSON as it is, other text as a string, and for a sound the entry of a file."""
        assert answer.body is not None, "a job without an error has a body"
        kind, small = answer.media_type.partition(";")[0], answer.body.bytes <= MOST_TEXT_BYTES
        if small and kind == "application/json":
            data = await self._blobs.read(answer.body.digest, MOST_TEXT_BYTES)
            return await in_input_thread(len(data) > INLINE_BYTES, from_json, data)
        if small and (kind.startswith("text/") or kind == "application/x-subrip"):
            return (await self._blobs.read(answer.body.digest, MOST_TEXT_BYTES)).decode(errors="replace")
        blob = await self._blobs.blob(answer.body.digest)
        suffix = EXTENSIONS.get(kind, "zip" if kind == "application/zip" else "bin")
        name = f"{custom_id}.{suffix}"
        file = self._file(blob, name, answer.media_type)
        self._made.append(file)
        return {**file.as_json(), "content_type": answer.media_type}

    def _file(self, blob: Blob, name: str, media_type: str) -> StoredFile:
        owner, expires = self._batch.owner, self._expires_at
        return StoredFile(new_id("file"), owner, blob, name, PURPOSE, self._now_s, expires, media_type)

    async def _append(self, which: str, line: Mapping[str, Any], *, large: bool = False) -> None:
        if which not in self._sinks:
            self._sinks[which] = await self._stack.enter_async_context(self._blobs.writing())
        text = await in_input_thread(large, partial(json.dumps, ensure_ascii=False), line)
        await self._sinks[which].write(text.encode() + b"\n")

    async def close(self) -> tuple[Sequence[StoredFile], Mapping[str, str]]:
        """All files that were made, and the ids of the output and of the errors, as far as there are any."""
        ids = {}
        for which, sink in self._sinks.items():
            blob = await sink.close()
            self._uploads.written.append(blob)
            name = f"{self._batch.id}_{which}.jsonl"
            file = self._file(blob, name, "application/jsonl")
            self._made.append(file)
            ids[which] = file.id
        return self._made, ids
