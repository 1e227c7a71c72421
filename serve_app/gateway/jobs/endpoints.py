"""The endpoints whose requests may be jobs, and how a JSON object becomes the form that some of them take."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from deployments.errors import fail, quoted

FILE_ID = re.compile(r"file-[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint by its path. `files` are the fields of its form that are files, the recording first; it takes JSON if there
    are none. Its models do `task`; the name of one is needed unless `model_optional`."""

    path: str
    task: str
    files: tuple[str, ...] = ()
    model_optional: bool = False


ENDPOINTS: Mapping[str, Endpoint] = {
    each.path: each
    for each in (
        Endpoint("/v1/audio/speech", "speech"),
        Endpoint("/v1/audio/transcriptions", "transcription", ("file",)),
        Endpoint("/v1/audio/translations", "transcription", ("file",)),
        Endpoint("/v1/audio/separations", "separation", ("file", "reference")),
        Endpoint("/v1/audio/enhancements", "separation", ("file",), model_optional=True),
        Endpoint("/v1/audio/revoice", "speech", ("file",), model_optional=True),
    )
}

STREAMS = {"stream": ("true", "t", "1", "yes", "y", "on"), "stream_format": ("sse",)}
"""Fields that ask for events. A job's own events say how far it is, and its result is whole."""


def endpoint_of(path: object) -> Endpoint:
    """The endpoint of a path. Raises `MotetError` (invalid)."""
    found = ENDPOINTS.get(path) if isinstance(path, str) else None
    if found is None:
        cause = f"There are no jobs for the endpoint {quoted(str(path))}."
        raise fail("invalid", cause, f"Endpoints: {', '.join(ENDPOINTS)}.", param="endpoint", code="unknown_endpoint")
    return found


def ensure_whole(fields: Mapping[str, str]) -> None:
    """Raises `MotetError` (invalid) for fields that ask for a stream of events."""
    for name, values in STREAMS.items():
        if fields.get(name, "").lower() in values:
            cause = f"A job answers with a whole result, and {name} asks for events."
            remedy = f"Leave {name} out; GET /v1/jobs/{{id}}/events says how far the job is."
            raise fail("invalid", cause, remedy, param=name, code="job_streams")


def form_fields(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The fields of a form for those of a JSON object, as OpenAI's client writes them: lists as `name[]`, and parts of
    objects as `name[part]`."""
    for name, value in body.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}[{part}]", _text(inner)) for part, inner in value.items() if inner is not None)
        elif isinstance(value, list):
            yield from ((f"{name}[]", _text(inner)) for inner in value if inner is not None)
        elif value is not None:
            yield name, _text(value)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
