"""The trace of one call of a replica: a span for the call, and below it one for each wait at the step gate and each step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from deployments.tracing.context import TraceContext
from deployments.tracing.spans import Tracer, TraceSpan, ended

MOST_STEPS = 64
"""Steps of a call that have spans of their own. An utterance of a minute can have a thousand."""


@dataclass(slots=True, eq=False)
class CallTrace:
    """A call that is traced: since when, on the monotonic clock in seconds, and the steps that it has taken so far."""

    span: TraceSpan
    came_s: float = field(default_factory=time.monotonic)
    steps: int = 0

    def stepped(
        self, came_s: float, started_s: float, ended_s: float, together: Sequence[CallTrace], size: int
    ) -> None:
        """A step of `size` items in all was taken, after a wait. `together` are the calls in it that are traced; the span has
        links to the others. Times are on the monotonic clock, in seconds. The first wait began with the call: it includes
        that for a place in the engine."""
        came_s = came_s if self.steps else self.came_s
        self.steps += 1
        if self.steps > MOST_STEPS:
            return
        self.span.child("queue", start_s=came_s).end(started_s)
        links = [other.span.context for other in together if other is not self]
        step = self.span.child("step", start_s=started_s, links=links)
        step.set(batch_size=size)
        step.end(ended_s)


@contextmanager
def traced_call(
    tracer: Tracer | None, name: str, parent: TraceContext | None, model: str
) -> Iterator[CallTrace | None]:
    """The trace of a call that came with a context; None without one."""
    if tracer is None or parent is None:
        yield None
        return
    call = CallTrace(tracer.continued(name, parent))
    with ended(call.span):
        try:
            yield call
        finally:
            call.span.set(model=model, steps=call.steps)
