"""The headers of requests and answers that the API's description lists, and that pages of allowed origins may read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TEXT: Mapping[str, Any] = {"type": "string"}
WHOLE: Mapping[str, Any] = {"type": "integer", "minimum": 0}


@dataclass(frozen=True, slots=True)
class HeaderInfo:
    """What a header means, with an example of its value."""

    meaning: str
    example: str | int
    schema: Mapping[str, Any] = field(default_factory=lambda: TEXT)


ANSWER_HEADERS: Mapping[str, HeaderInfo] = {
    "x-request-id": HeaderInfo(
        "The id of the request, which the logs of the service have: the client's own, or a new one.",
        "0f3b9a52-7c1d-4e55-9f0e-3f1d2b7a9c11",
    ),
    "x-trace-id": HeaderInfo(
        "The id of the request's trace: of the client's `traceparent`, or a new one if the request is traced.",
        "4bf92f3577b34da6a3ce929d0e0e4736",
    ),
    "retry-after": HeaderInfo("Seconds after which the same request is likely to succeed.", 3, WHOLE),
    "www-authenticate": HeaderInfo("How to send a key.", "Bearer"),
    "server-timing": HeaderInfo(
        "Where the time went, in ms: `first_sound` or `first_result`, `total`, and of speech each stage.",
        "queue;dur=1.2, infer;dur=80.5, total;dur=95.1",
    ),
    "content-disposition": HeaderInfo("The name of the file.", 'attachment; filename="stems.zip"'),
    "x-sample-rate": HeaderInfo("The rate of the sound in Hz.", 24_000, WHOLE),
    "x-motet-model": HeaderInfo("The model that answers, by its own name.", "hibari"),
    "x-motet-voice": HeaderInfo("The voice that speaks, by the model's own name.", "heart"),
    "x-motet-placement": HeaderInfo("The placement of the model that answers.", "hibari@cpu"),
    "x-motet-finish-reason": HeaderInfo(
        "Why the sound ended, if that is known when the answer begins: `stop`, `length`, `repetition` or `silence`.",
        "stop",
    ),
    "x-motet-ignored": HeaderInfo("Fields of the request that the service or the model does not use.", "user"),
    "x-motet-unread-scripts": HeaderInfo("Scripts in the text that the voice does not read.", "Cyrillic"),
    "location": HeaderInfo("Where the new thing is.", "/v1/jobs/job_0123456789abcdef0123456789abcdef"),
    "idempotent-replayed": HeaderInfo("`true` if an earlier request with this `Idempotency-Key` made this.", "true"),
    "x-motet-stems": HeaderInfo("The stems of the answer, in order.", "vocals,drums"),
}
"""Headers of answers by their name in small letters."""

REQUEST_HEADERS: Mapping[str, HeaderInfo] = {
    "Idempotency-Key": HeaderInfo(
        "Requests with the same key, up to 255 characters, are carried out once and have the same answer.", "chapter-7"
    ),
    "Last-Event-ID": HeaderInfo(
        "The id of the last event that the client received. The answer continues after it.", "m1.4f2a.96000.12"
    ),
}
"""Headers that a request may have beside the usual ones."""
