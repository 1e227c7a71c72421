"""The HTTP application: routes, guards and errors. It knows nothing of Ray, so it can be tested with any `Service`."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from deployments.engines.protocols import SpeechTraits
from deployments.errors import MotetError
from serve_app.config import AppConfig
from serve_app.gateway.errors import install_error_handlers
from serve_app.gateway.middleware.limits import BodyLimit, Deadline, KeyCheck, PageHeaders, key_digest
from serve_app.gateway.middleware.origins import PageCheck
from serve_app.gateway.middleware.request_bodies import BodyDeadline, BodyPace, RequestPlaces
from serve_app.gateway.middleware.request_name import NamesRequests
from serve_app.gateway.request_timing import Recorder
from serve_app.gateway.routes import (
    health,
    models,
    separations,
    speech,
    speech_sessions,
    transcriptions,
    translations,
    voices,
)
from serve_app.gateway.routing.admission import Admission, SessionPlaces, Ticket
from serve_app.gateway.routing.placement import ModelDirectory
from serve_app.gateway.separation import SeparationGraph
from serve_app.gateway.speech.piece_cache import PieceCache
from serve_app.gateway.speech.plan import FallbackVoice, SpeechPlan
from serve_app.gateway.speech.resume import START, ResumePoint
from serve_app.gateway.speech.stream import SpeechStream
from serve_app.gateway.voice_store import VoiceStore

ABOUT = "One speech service over whatever hardware you have."
PAGE = Path(__file__).parents[1] / "page"


@dataclass(frozen=True, slots=True)
class Service:
    """What the routes need."""

    config: AppConfig
    directory: ModelDirectory
    graph: SeparationGraph | None
    """None where no model separates."""
    admission: Admission
    cache: PieceCache
    recorder: Recorder
    voices: VoiceStore
    sessions: SessionPlaces

    def speech_stream(self, plan: SpeechPlan, ticket: Ticket, resume: ResumePoint = START) -> SpeechStream:
        """The stream of an accepted request from where its client goes on."""
        return SpeechStream(plan, self.directory, self.cache, ticket, self.recorder, resume)

    def admit(self, name: str, headers: Headers, seconds: float, reach: float = math.inf) -> Ticket:
        """A place in the queue for about `seconds` of audio, of which at most `reach` are ever queued. Raises `MotetError`
        (overloaded; unavailable when the model is frozen)."""
        self.directory.ensure_not_frozen(name)
        model, settings = self.config.models[name], self.config.speech.admission
        task_wait_s = {
            "speech": settings.max_wait_s,
            "transcription": self.config.windows.max_wait_s,
            "separation": self.config.separation.max_wait_s,
        }[model.task]
        key = key_digest(headers) if self.config.security.api_key_sha256 else None
        placements = [placed.name for placed in self.directory.placements(name)]
        return self.admission.admit(placements, key, seconds, model.max_wait_s or task_wait_s, reach)

    async def fallback_for(self, name: str) -> FallbackVoice | None:
        """Who takes over from a model that is late; none when the other one does not answer now."""
        others = [other for other, model in self.config.models.items() if model.task == "speech" and other != name]
        chosen = self.config.speech.fallback_model or next(iter(others), None)
        if chosen is None or chosen == name:
            return None
        try:
            async with asyncio.timeout(self.config.spillover.life_sign_s):
                traits: SpeechTraits = await self.directory.traits(chosen)
        except (TimeoutError, MotetError):
            return None
        return FallbackVoice(chosen, traits.default_voice, traits) if traits.default_voice else None


def build_api(service: Service) -> ASGIApp:
    """The application, behind its guards."""
    # FastAPI's pages of documentation load their scripts from elsewhere; the description itself is at /openapi.json.
    api = FastAPI(title="Motet", description=ABOUT, docs_url=None, redoc_url=None, redirect_slashes=False)
    api.state.service = service
    for route in (speech, speech_sessions, transcriptions, translations, separations, voices, models, health):
        api.include_router(route.router)
    api.mount("/page", StaticFiles(directory=PAGE), name="page")
    install_error_handlers(api)
    limits = service.config.limits
    bodies = {
        "/v1/audio/transcriptions": limits.max_transcription_bytes,
        "/v1/audio/translations": limits.max_transcription_bytes,
        "/v1/audio/separations": limits.max_separation_bytes,
        "/v1/audio/voices": limits.max_voice_bytes,
    }
    pace = BodyPace(limits.body_grace_s, limits.body_min_bytes_per_s, limits.max_unfinished_bodies)
    guarded: ASGIApp = BodyLimit(api, bodies, limits.max_body_bytes)
    guarded = RequestPlaces(guarded, service.config.gateway_max_ongoing_requests)
    guarded = Deadline(BodyDeadline(guarded, pace), limits.request_deadline_s)
    security = service.config.security
    guarded = KeyCheck(guarded, security.api_key_sha256)
    guarded = PageCheck(guarded, security.allowed_hosts, security.allowed_origins)
    return NamesRequests(PageHeaders(guarded))
