"""From an endpoint's fields to a job's request. Files are in the store already, or ids of uploaded files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from deployments.errors import fail
from serve_app.gateway.bodies.input_thread import in_input_thread
from serve_app.gateway.jobs.endpoints import FILE_ID, Endpoint, ensure_whole, form_fields
from serve_app.gateway.jobs.records import Blob, JobRequest

INLINE_CHARACTERS = 16 * 1024
"""A JSON body up to this length is kept in the queue itself."""


class FindsFiles(Protocol):
    """Finds the uploaded files of whoever sends the request."""

    async def __call__(self, id: str) -> Blob:
        """The content of the file with this id. Raises `MotetError` (not_found)."""


class WritesBlobs(Protocol):
    """Stores bytes: see `Blobs`."""

    async def write_bytes(self, data: bytes) -> Blob:
        """A blob of some bytes. Raises `MotetError` (storage_full)."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A job's request with what it holds, and the model that it names."""

    request: JobRequest
    blobs: tuple[Blob, ...]
    model: str | None


async def of_body(endpoint: Endpoint, body: Mapping[str, Any], blobs: WritesBlobs, find: FindsFiles) -> Submission:
    """The submission of an endpoint's fields as JSON. Files are ids of uploaded files. Raises `MotetError`."""
    plain = {name: value for name, value in body.items() if not isinstance(value, dict | list)}
    fields = dict(form_fields(plain))
    ensure_whole(fields)
    if endpoint.files:
        return await of_fields(endpoint, list(form_fields(body)), [], find)
    large = any(isinstance(value, str) and len(value) > INLINE_CHARACTERS for value in body.values())
    text = await in_input_thread(large, partial(json.dumps, ensure_ascii=False), body)
    if len(text) <= INLINE_CHARACTERS:
        return Submission(JobRequest(endpoint.path, (("", text),), ()), (), fields.get("model"))
    blob = await blobs.write_bytes(text.encode())
    return Submission(JobRequest(endpoint.path, (), (("", blob.digest),)), (blob,), fields.get("model"))


async def of_fields(
    endpoint: Endpoint, fields: Sequence[tuple[str, str]], files: Sequence[tuple[str, Blob]], find: FindsFiles
) -> Submission:
    """The submission of a form's fields, of which ids of uploaded files become files. Raises `MotetError`, (invalid) unless
    there is one recording."""
    ensure_whole(dict(fields))
    texts, found = [], list(files)
    for name, value in fields:
        if name not in endpoint.files:
            texts.append((name, value))
        elif FILE_ID.fullmatch(value):
            found.append((name, await find(value)))
        else:
            cause = f"{name} is neither a file nor the id of one."
            raise fail("invalid", cause, "Send the file in a form, or upload it to /v1/files first.", param=name)
    _ensure_one(endpoint.files[0], [name for name, _ in found])
    # The recording comes last, as a form that is read while it arrives needs it.
    found.sort(key=lambda file: (file[0] == endpoint.files[0], file[0]))
    request = JobRequest(endpoint.path, tuple(texts), tuple((name, blob.digest) for name, blob in found))
    return Submission(request, tuple(blob for _, blob in found), dict(texts).get("model"))


def _ensure_one(recording: str, names: Sequence[str]) -> None:
    if (count := names.count(recording)) == 1:
        return
    cause = f"The job has {count or 'no'} recordings as {recording!r}."
    raise fail("invalid", cause, "Send one.", param=recording, code="repeated_file" if count else "missing")
