"""How a route says what it takes and answers. `openapi.py` makes the description of the API from it.

A route passes `Operation(...).extra` as `openapi_extra`. The types are the ones that parse a body or that the answer is made
of, so that the description follows the code. Statuses that every such route has, such as 413 of one with a body, need not be
listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from serve_app.gateway.description.schemas import ParsedForm, Tag

EVENTS = "text/event-stream"
KEY = "x-motet-operation"
"""Where FastAPI keeps the operation of a route. The document does not have it."""


@dataclass(frozen=True, slots=True)
class AnswerContent:
    """What an answer may contain: a media type, and the Python type of its value. `bytes` are a file, `str` is text; for
    `text/event-stream`, the type is that of the JSON in each event's data."""

    media_type: str
    type: Any = bytes
    meaning: str = ""


@dataclass(frozen=True, slots=True)
class DescribedAnswer:
    """One answer of a route: what it may contain, its status, and the names of its headers."""

    meaning: str
    contents: tuple[AnswerContent, ...]
    status: int = 200
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JsonBody:
    """A body in JSON, parsed into `fields`, a pydantic model."""

    fields: type[Any]


class AudioMedia(Protocol):
    """A format of sound: see `FORMATS`."""

    @property
    def media_type(self) -> str:
        """Its media type."""


@dataclass(frozen=True, slots=True)
class FormBody:
    """A multipart form, whose text fields are parsed into `fields`, a pydantic model, and its files as `form` says."""

    fields: type[Any]
    form: ParsedForm


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What a route takes and answers. `id` is the name of its function in a generated client."""

    id: str
    tag: Tag
    answers: tuple[DescribedAnswer, ...]
    body: JsonBody | FormBody | None = None
    form: FormBody | None = None
    """The same as a form, of a route that takes both."""
    headers: tuple[str, ...] = ()
    """Request headers that change the answer."""
    errors: tuple[int, ...] = ()
    """Statuses of errors beside those that every such route has."""
    example: Mapping[str, Any] = field(default_factory=dict)
    """The fields of a request that works. Files are left out."""
    output: str = ""
    """The file in which the example of `docs/api.md` keeps the answer; without one the answer is shown."""

    @property
    def extra(self) -> dict[str, Any]:
        """`openapi_extra` of the route."""
        return {KEY: self}


def json_answer(answer: Any, meaning: str, status: int = 200) -> DescribedAnswer:
    """An answer in JSON, of one type."""
    return DescribedAnswer(meaning, (AnswerContent("application/json", answer),), status)


def sounds(formats: Mapping[Any, AudioMedia]) -> Iterator[AnswerContent]:
    """A file of sound, in any of the formats."""
    for media_type in dict.fromkeys(info.media_type for info in formats.values()):
        yield AnswerContent(media_type)


def events_content(event: Any) -> AnswerContent:
    """Server-sent events: the type of each one's JSON."""
    return AnswerContent(EVENTS, event, "Each event has one line `data:` with one of these objects.")
