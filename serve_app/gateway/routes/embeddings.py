"""POST /v1/audio/embeddings: a recording in, the embedding of its voice out, in the shape of OpenAI's embeddings."""

from __future__ import annotations

import base64
from typing import Literal

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response
from typing_extensions import TypedDict

from deployments.settings import documented
from deployments.tasks.voice_embedding import EmbeddingTicket, VoiceEmbeddingTask
from serve_app.gateway.bodies.uploads import FormFields, UploadForm, answer_upload
from serve_app.gateway.description.operation import FormBody, Operation, json_answer
from serve_app.gateway.errors import validated
from serve_app.gateway.fields import RequestFields
from serve_app.gateway.service import Service, service_of
from serve_app.gateway.transcript_formats import AUDIO_TOKENS_PER_SECOND

router = APIRouter()

FORM = FormFields(needed=())
MODEL = "d-vector"
"""The name of the encoder in answers. There is one, so requests need not name it."""


class EmbeddingFields(RequestFields):
    """The form's fields, without the file."""

    encoding_format: Literal["float", "base64"] = "float"
    """Numbers, or little-endian 32-bit floats in base64."""


@documented
class VoiceVector(TypedDict):
    """The embedding of a voice."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str
    """256 numbers of length 1, or their bytes in base64."""


class EmbeddingUsage(TypedDict):
    """The length of the recording: 50 tokens a second."""

    prompt_tokens: int
    total_tokens: int
    seconds: float


class EmbeddingList(TypedDict):
    """One embedding, in the shape of OpenAI's embeddings."""

    object: Literal["list"]
    model: str
    data: list[VoiceVector]
    usage: EmbeddingUsage


EMBEDDING = Operation(
    id="create_voice_embedding",
    tag="Transcription",
    body=FormBody(EmbeddingFields, FORM),
    answers=(json_answer(EmbeddingList, "The embedding of the voice."),),
)


@router.post("/v1/audio/embeddings", openapi_extra=EMBEDDING.extra)
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
    answer: EmbeddingList = {
        "object": "list",
        "model": MODEL,
        "data": [{"object": "embedding", "index": 0, "embedding": _vector(ticket, fields)}],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "seconds": round(ticket.until_s, 3)},
    }
    return JSONResponse(answer)


def _vector(ticket: EmbeddingTicket, fields: EmbeddingFields) -> list[float] | str:
    """The vector as numbers, or as little-endian 32-bit floats in base64."""
    if fields.encoding_format == "base64":
        return base64.b64encode(ticket.vector.astype(np.dtype("<f4")).tobytes()).decode()
    vector: list[float] = ticket.vector.tolist()
    return vector
