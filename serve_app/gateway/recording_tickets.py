"""The upload of a request, analysed without a model."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from starlette.requests import HTTPConnection

from deployments.audio.stated_length import estimated_seconds
from deployments.errors import fail
from deployments.replica.chunker import CuttingTask
from serve_app.gateway.bodies.uploads import Upload
from serve_app.gateway.service import Service


async def tickets_of(file: Upload, task: CuttingTask, request: HTTPConnection, service: Service) -> list[Any]:
    """All tickets of a task, at least one. Raises `MotetError`: unsupported if the service has no audio helpers, overloaded,
    and what the task raises."""
    if service.analyses is None:
        cause = "No model of this service takes recordings, so it does not read them."
        raise fail("unsupported", cause, "Add a model for transcription or separation to the configuration.")
    ticket = service.admit_analysis(request.headers, estimated_seconds(file.head, file.likely_size))
    upload = file.blocks(service.settings.recordings.block_bytes)
    async with aclosing(service.analyses.run(upload, task, service.directory, ticket)) as tickets:
        return [each async for each in tickets]
