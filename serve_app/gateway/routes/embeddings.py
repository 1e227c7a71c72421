"""POST /v1/audio/embeddings: a recording in, the embedding of its voice out, in the shape of OpenAI's embeddings."""

from __future__ import annotations

import base64
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from deployments.tasks.voice_embedding import EmbeddingTicket, VoiceEmbeddingTask
from serve_app.gateway.bodies.uploads import FormFields, UploadForm, answer_upload
from serve_app.gateway.errors import validated
from serve_app.gateway.fields import RequestFields, form_schema
from serve_app.gateway.service import Service, service_of
from serve_app.gateway.transcript_formats import AUDIO_TOKENS_PER_SECOND

router = APIRouter()

FORM = FormFields(needed=())
MODEL = "d-vector"
"""The name of the encoder in answers. There is one, so requests need not name it."""


class EmbeddingFields(RequestFields):
    """The form's fields, without the file."""

    encoding_format: Literal["float", "base64"] = "float"


@router.post("/v1/audio/embeddings", openapi_extra=form_schema(EmbeddingFields))
async def embeddings(request: Request) -> Response:
    """Describes the voice of a recording as a vector: near for one voice, far for different ones (cosine similarity)."""
    service = service_of(request)
    return await answer_upload(request, FORM, lambda form: _embedded(form, request, service), service.early)


async def _embedded(form: UploadForm, request: Request, service: Service) -> Response:
    fields = validated(EmbeddingFields, form.fields, strict=service.settings.strict)
    task = VoiceEmbeddingTask(form.file.size)
    tickets: list[EmbeddingTicket] = await service.analysed(form.file, task, request.headers)
    ticket = tickets[-1]
    tokens = round(ticket.until_s * AUDIO_TOKENS_PER_SECOND)
    embedding = {"object": "embedding", "index": 0, "embedding": _vector(ticket, fields)}
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "seconds": round(ticket.until_s, 3)}
    return JSONResponse({"object": "list", "model": MODEL, "data": [embedding], "usage": usage})


def _vector(ticket: EmbeddingTicket, fields: EmbeddingFields) -> Any:
    """The vector as numbers, or as little-endian 32-bit floats in base64."""
    if fields.encoding_format == "base64":
        return base64.b64encode(ticket.vector.astype(np.dtype("<f4")).tobytes()).decode()
    return ticket.vector.tolist()
