"""POST /v1/audio/translations: a recording in any language in, English text out, where the model can."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from serve_app.gateway.routes.transcriptions import recognized

router = APIRouter()


@router.post("/v1/audio/translations")
async def translations(request: Request) -> Response:
    """Transcribes a recording into English."""
    return await recognized(request, translate=True)
