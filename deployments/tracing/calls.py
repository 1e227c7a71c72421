"""Calls of replicas that carry the trace of their request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from deployments.tracing.context import TraceContext
from deployments.tracing.spans import below_current, ended

METHODS = frozenset({"speak", "transcribe", "separate", "listen"})
"""The methods of replicas that take the argument `trace`. Others are short, or come for each 40 ms of sound."""

NOTHING: Mapping[str, TraceContext] = {}


@contextmanager
def outgoing(method: str, placement: str) -> Iterator[Mapping[str, TraceContext]]:
    """A span for a call of a placement, until the block ends. Yields the arguments that continue the trace there; none if the
    request is not traced."""
    span = below_current(f"{method} {placement}", "client") if method in METHODS else None
    if span is None:
        yield NOTHING
        return
    with ended(span):
        yield {"trace": span.context}
