"""Spans: what took how long for a request. While tracing is off there are none, and the code that would make them gets None.

Two rules keep this cheap. A request that is not traced has no span, so everything below it asks one context variable. A span
that lies in the past, such as a step, is made when it is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, Protocol

from deployments.errors import MotetError
from deployments.tracing.context import TraceContext

SpanKind = Literal["server", "client", "internal"]
Value = str | int | float | bool
LEFT = (asyncio.CancelledError, GeneratorExit)
"""What ends work that nobody waits for any more."""


class TraceSpan(Protocol):
    """Work that is in progress. Times are on the monotonic clock, in seconds; without one it is now."""

    @property
    def context(self) -> TraceContext:
        """Its place in the trace, for what continues it elsewhere."""

    def child(
        self,
        name: str,
        kind: SpanKind = "internal",
        *,
        start_s: float | None = None,
        links: Sequence[TraceContext] = (),
    ) -> TraceSpan:
        """A span below this one. `links` are spans of other requests that share the work."""

    def set(self, **attributes: Value | None) -> None:
        """Sets attributes, whose names get the prefix `motet.`. None leaves one out."""

    def set_http(self, name: str, method: str, route: str, status: int) -> None:
        """Names the span, which is an HTTP request or a WebSocket, and sets the attributes of OpenTelemetry's conventions."""

    def fail(self, cause: str) -> None:
        """The work failed."""

    def end(self, at_s: float | None = None) -> None:
        """The work is over. The span is exported."""


class Tracer(Protocol):
    """Makes the first span of a request in this process."""

    def request(self, parent: TraceContext | None) -> TraceSpan | None:
        """The span of a request of a client, who may have sent a context; None if the request is not recorded."""

    def continued(self, name: str, parent: TraceContext) -> TraceSpan:
        """The span of a call from another process of the service."""


SPAN: ContextVar[TraceSpan | None] = ContextVar("SPAN", default=None)
"""The span under which the current task works."""


@contextmanager
def ended(span: TraceSpan | None) -> Iterator[None]:
    """Ends a span with the block, also if that raises. It does not become the current one, so that a generator may use it."""
    if span is None:
        yield
        return
    try:
        yield
    except LEFT:
        span.set(cancelled=True)
        raise
    except BaseException as error:
        span.fail(error.failure.kind if isinstance(error, MotetError) else type(error).__name__)
        raise
    finally:
        span.end()


@contextmanager
def within(name: str) -> Iterator[TraceSpan | None]:
    """A span below the current one, which is current in the block; None if the request is not traced. Not for generators:
    their context is that of their caller."""
    parent = SPAN.get()
    if parent is None:
        yield None
        return
    span = parent.child(name)
    token = SPAN.set(span)
    try:
        with ended(span):
            yield span
    finally:
        SPAN.reset(token)


def below_current(name: str, kind: SpanKind = "internal") -> TraceSpan | None:
    """A span below the current one, which the caller ends; None if the request is not traced."""
    parent = SPAN.get()
    return None if parent is None else parent.child(name, kind)
