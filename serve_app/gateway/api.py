"""The ASGI application: the routes behind their middleware. It can be tested without Ray, with any `Service`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from serve_app.gateway.description.asyncapi import asyncapi_document
from serve_app.gateway.description.documents import ApiDocument, ApiDocuments
from serve_app.gateway.description.openapi import openapi_document
from serve_app.gateway.errors import install_error_handlers
from serve_app.gateway.idempotency.kept_answers import KeptAnswers
from serve_app.gateway.jobs.batch_runner import BatchRunner
from serve_app.gateway.jobs.batches import Batches
from serve_app.gateway.jobs.files import Files
from serve_app.gateway.jobs.jobs import Jobs
from serve_app.gateway.jobs.runner import JobRunner
from serve_app.gateway.middleware.body_length import BodyLimit
from serve_app.gateway.middleware.concurrency import ConcurrencyLimit
from serve_app.gateway.middleware.deadline import Deadline
from serve_app.gateway.middleware.draining import DrainCheck
from serve_app.gateway.middleware.idempotency import Idempotency
from serve_app.gateway.middleware.ignored_fields import IgnoredFieldsHeader
from serve_app.gateway.middleware.keys import KeyCheck, OwnerRights
from serve_app.gateway.middleware.origins import PageCheck
from serve_app.gateway.middleware.page_headers import PageHeaders
from serve_app.gateway.middleware.request_bodies import BodyDeadline, BodyPace
from serve_app.gateway.middleware.request_log import RequestLog
from serve_app.gateway.middleware.server_timing import ServerTiming
from serve_app.gateway.routes import (
    admin,
    batches,
    client_secrets,
    diarizations,
    embeddings,
    enhancement_sessions,
    enhancements,
    files,
    health,
    jobs,
    model_loading,
    models,
    realtime,
    reference,
    registry,
    revoice,
    separations,
    speech,
    speech_sessions,
    status,
    transcriptions,
    voice_activity,
    voices,
)
from serve_app.gateway.service import Service

ROUTERS = tuple(
    module.router
    for module in (
        speech,
        speech_sessions,
        realtime,
        client_secrets,
        transcriptions,
        diarizations,
        voice_activity,
        embeddings,
        enhancement_sessions,
        separations,
        enhancements,
        revoice,
        voices,
        jobs,
        files,
        batches,
        models,
        model_loading,
        registry,
        health,
        status,
        admin,
        reference,
    )
)
ROUTES = tuple(route for router in ROUTERS for route in router.routes)
"""All of them, which `/openapi.json` and `/asyncapi.json` describe."""
PAGE = Path(__file__).parents[1] / "page"


def build_api(service: Service) -> ASGIApp:
    """The application of a service, with its middleware. While its lifespan lasts, it runs jobs."""
    # `routes/reference.py` answers the documents, which FastAPI would make without forms, sounds, errors and events.
    api = FastAPI(openapi_url=None, redirect_slashes=False, lifespan=_running_jobs)
    api.state.service = service
    keyed = service.keys.needed
    api.state.documents = ApiDocuments(
        ApiDocument(partial(openapi_document, ROUTES, keyed=keyed)),
        ApiDocument(partial(asyncapi_document, ROUTES, keyed=keyed)),
    )
    _add_jobs(api, service)
    for router in ROUTERS:
        api.include_router(router)
    api.mount("/page", StaticFiles(directory=PAGE), name="page")
    install_error_handlers(api)
    return _with_middleware(api, service)


def _add_jobs(api: FastAPI, service: Service) -> None:
    """The jobs, files and batches, and what runs them: through the routes, without the limits of connections and clients."""
    own = Jobs(service.settings.jobs, service=service.identity)
    parts = own.settings, own.database, own.blobs, own.clock
    api.state.jobs, api.state.files = own, Files(*parts)
    api.state.batches = Batches(own.settings, own.database, own.clock)
    app: ASGIApp = IgnoredFieldsHeader(api)
    if service.keys.needed:
        app = OwnerRights(app, service.keys)
    app = RequestLog(app, service.ended_of_job, service.tracer)
    api.state.job_runner = JobRunner(own, app, BatchRunner(*parts), service.drain, signs=service.keys.needed)


@asynccontextmanager
async def _running_jobs(api: FastAPI) -> AsyncGenerator[None]:
    running = asyncio.create_task(api.state.job_runner.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait({running})


def _with_middleware(api: ASGIApp, service: Service) -> ASGIApp:
    """A request passes the last one first."""
    limits, security = service.settings.limits, service.settings.security
    lengths = {
        "/v1/audio/transcriptions": limits.max_transcription_bytes,
        "/v1/audio/translations": limits.max_transcription_bytes,
        "/v1/audio/diarizations": limits.max_transcription_bytes,
        "/v1/audio/speech/timestamps": limits.max_transcription_bytes,
        "/v1/audio/embeddings": limits.max_transcription_bytes,
        "/v1/audio/separations": limits.max_separation_bytes,
        "/v1/audio/enhancements": limits.max_separation_bytes,
        "/v1/audio/revoice": limits.max_transcription_bytes,
        "/v1/audio/voices": limits.max_voice_bytes,
        "/v1/jobs": service.settings.jobs.max_upload_bytes,
        "/v1/files": service.settings.jobs.max_upload_bytes,
    }
    pace = BodyPace(
        limits.body_grace_s, limits.body_min_bytes_per_s, limits.max_unfinished_bodies, limits.max_unfinished_bytes
    )
    answers = KeptAnswers(service.settings.limits.idempotency, time.monotonic, made=service.directory.forget)
    app: ASGIApp = IgnoredFieldsHeader(api)
    app = Idempotency(app, answers, lambda connection: service.viewer(connection).name)
    app = BodyLimit(app, lengths, limits.max_body_bytes)
    app = ConcurrencyLimit(app, service.settings.max_ongoing_requests)
    app = BodyDeadline(app, pace)
    app = Deadline(app, limits.request_deadline_s)
    app = KeyCheck(app, service.keys)
    app = PageCheck(app, security.allowed_hosts, security.allowed_origins)
    app = DrainCheck(app, service.drain)
    return RequestLog(PageHeaders(ServerTiming(app)), service.ended, service.tracer)
