"""The request that the current task serves: its record for the log, and its deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import quote

from deployments.errors import Failure, clipped

MAX_IGNORED = 256
"""Ignored fields of a request that are kept. A WebSocket may send any number of messages."""


@dataclass(slots=True)
class RequestRecord:
    """What the log says about one request. The middleware creates it; routes and streams fill it in.

    `id` is the header `x-request-id`: the client's own, or the one that Ray Serve generated; empty without Ray Serve. Ray
    Serve passes the same id on with every call to a replica, whose log therefore has it too. `trace_id` is that of the header
    `traceparent`, or of the trace that began with the request. `failure` is the kind of the
    failure that the request ended with. `first_result_ms` is the time to the first text of a transcription or the first audio
    of a separation, of which `started_s` is the beginning on the clock of `time.perf_counter`. `ignored` names the fields
    that the service does not use, in order of arrival. While `outlives_client`, the answer is made to its end also without
    the client: that the client left does not end the request.
    """

    id: str = ""
    trace_id: str | None = None
    method: str = ""
    path: str = ""
    model: str | None = None
    placement: str | None = None
    first_sound_ms: float | None = None
    first_result_ms: float | None = None
    seconds_of_audio: float | None = None
    finish_reason: str | None = None
    failure: str | None = None
    ignored: list[str] = field(default_factory=list)
    outlives_client: bool = False
    started_s: float = field(default_factory=time.perf_counter)

    def note_first_result(self) -> None:
        """A result is there. Later calls have no effect."""
        if self.first_result_ms is None:
            self.first_result_ms = round((time.perf_counter() - self.started_s) * 1000, 1)

    def ignore(self, names: Iterable[str]) -> None:
        """Notes fields that the service does not use. The client gets their names."""
        for name in names:
            if len(self.ignored) == MAX_IGNORED:
                return
            if (short := clipped(name)) not in self.ignored:
                self.ignored.append(short)

    @property
    def title(self) -> str:
        """Method and path for a line of text. The path is percent-encoded again, since it may contain line breaks."""
        return f"{self.method} {clipped(quote(self.path))}" if self.method else "A request"


REQUEST: ContextVar[RequestRecord | None] = ContextVar("REQUEST", default=None)


def current_request() -> RequestRecord:
    """The record of the request that this task serves; an unconnected one outside of a request."""
    return REQUEST.get() or RequestRecord()


@dataclass(frozen=True, slots=True)
class RequestDeadline:
    """When a request must end, on the clock of its event loop, and what the client is answered then."""

    at: float
    failure: Failure


class KeyRights(Protocol):
    """What the API key of a request may do: see `ApiKey`."""

    @property
    def title(self) -> str:
        """How messages and the audit log call it."""

    @property
    def changes_models(self) -> bool:
        """Whether it adds, loads, unloads and removes models."""

    def may_use(self, model: str) -> bool:
        """Whether it may use a model."""

    def ensure_may_use(self, model: str) -> None:
        """Raises `MotetError` (forbidden) for a model that it may not use."""

    def ensure_audio(self) -> None:
        """Raises `MotetError` (overloaded) if its quota of audio is used up."""

    def take_audio(self, seconds: float) -> None:
        """Models made or read so much audio for it."""


class NoKey:
    """The rights of a request in a service without keys."""

    title = "none"
    changes_models = False

    def may_use(self, model: str) -> bool:
        """Every model."""
        return True

    def ensure_may_use(self, model: str) -> None:
        """Raises nothing."""

    def ensure_audio(self) -> None:
        """Raises nothing."""

    def take_audio(self, seconds: float) -> None:
        """Counts nothing."""


KEY: ContextVar[KeyRights] = ContextVar("KEY", default=NoKey())  # noqa: B039  (it has no state)
"""The key of the request that this task serves."""


def current_key() -> KeyRights:
    """What the key of the request that this task serves may do."""
    return KEY.get()


SERVE_NOW: ContextVar[Callable[[], None]] = ContextVar("SERVE_NOW", default=lambda: None)
"""Counts the request of this task among those that are served, although its body has not arrived. Raises `MotetError`
(overloaded) if there are too many. Safe to call twice."""

DUE: ContextVar[RequestDeadline | None] = ContextVar("DUE", default=None)
"""The deadline of the request that this task serves."""
