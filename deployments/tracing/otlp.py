"""Spans of OpenTelemetry's SDK, sent to a collector by OTLP over HTTP. Only a process that traces imports this module: the
exporter and its HTTP client take a tenth of a second. Ray Serve imports the SDK in any case."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as RecordingSpan
from opentelemetry.trace import Tracer as SdkTracer

from deployments.tracing import spans
from deployments.tracing.context import TraceContext
from deployments.tracing.settings import TracingSettings
from deployments.tracing.spans import Value

EXPORT_EVERY_MS = 1000
"""How long a span that ended waits for others. A process that is ended loses no more than that."""
EXPORT_TIMEOUT_S = 5.0

KINDS = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
SERVER_ERRORS = 500


class OtlpTracer:
    """Implements `Tracer`. Spans wait in a bounded queue for a thread that sends them; what does not fit is dropped."""

    def __init__(self, settings: TracingSettings, process: str, exporter: SpanExporter | None = None) -> None:
        """`process` names the part of the service; `exporter` replaces the one for the endpoint in tests."""
        assert settings.endpoint is not None
        address = f"{settings.endpoint.rstrip('/')}/v1/traces"
        exporter = exporter or OTLPSpanExporter(endpoint=address, timeout=EXPORT_TIMEOUT_S)
        facts = {
            "service.name": settings.service_name,
            "service.version": version("motet"),
            "service.instance.id": process,
        }
        provider = TracerProvider(sampler=ALWAYS_ON, resource=Resource.create(facts))
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=EXPORT_EVERY_MS))
        self._provider = provider
        self._tracer = provider.get_tracer("motet")
        self._share = settings.sampled_share

    def request(self, parent: TraceContext | None) -> OtlpSpan | None:
        """See `Tracer`."""
        recorded = random.random() < self._share if parent is None else parent.sampled  # noqa: S311  (no secret)
        if not recorded:
            return None
        return OtlpSpan.begin(self._tracer, "request", "server", parent, None, ())

    def continued(self, name: str, parent: TraceContext) -> OtlpSpan:
        """See `Tracer`."""
        return OtlpSpan.begin(self._tracer, name, "server", parent, None, ())

    def flush(self) -> None:
        """Sends what has ended so far, and waits for it."""
        self._provider.force_flush()

    def close(self) -> None:
        """Sends what has ended so far, and ends the thread that sends."""
        self._provider.shutdown()


class OtlpSpan:
    """Implements `TraceSpan`."""

    def __init__(self, tracer: SdkTracer, span: RecordingSpan) -> None:
        self._tracer = tracer
        self._span = span
        own = span.get_span_context()
        self._context = TraceContext(f"{own.trace_id:032x}", f"{own.span_id:016x}")

    @classmethod
    def begin(
        cls,
        tracer: SdkTracer,
        name: str,
        kind: spans.SpanKind,
        parent: TraceContext | None,
        start_s: float | None,
        links: Sequence[TraceContext],
    ) -> OtlpSpan:
        """Begins a span; without a parent a new trace."""
        above = set_span_in_context(NonRecordingSpan(INVALID if parent is None else _sdk_context(parent)))
        others = [Link(_sdk_context(link)) for link in links]
        began = tracer.start_span(name, above, KINDS[kind], links=others, start_time=_epoch_ns(start_s))
        return cls(tracer, began)

    @property
    def context(self) -> TraceContext:
        """See `TraceSpan`."""
        return self._context

    def child(
        self,
        name: str,
        kind: spans.SpanKind = "internal",
        *,
        start_s: float | None = None,
        links: Sequence[TraceContext] = (),
    ) -> OtlpSpan:
        """See `TraceSpan`."""
        return self.begin(self._tracer, name, kind, self._context, start_s, links)

    def set(self, **attributes: Value | None) -> None:
        """See `TraceSpan`."""
        self._span.set_attributes({f"motet.{name}": value for name, value in attributes.items() if value is not None})

    def set_http(self, name: str, method: str, route: str, status: int) -> None:
        """See `TraceSpan`."""
        self._span.update_name(name)
        self._span.set_attributes(
            {"http.request.method": method, "http.route": route, "http.response.status_code": status}
        )
        if status >= SERVER_ERRORS and method != "WEBSOCKET":
            self._span.set_status(Status(StatusCode.ERROR))

    def fail(self, cause: str) -> None:
        """See `TraceSpan`."""
        self._span.set_attribute("error.type", cause)
        self._span.set_status(Status(StatusCode.ERROR))

    def end(self, at_s: float | None = None) -> None:
        """See `TraceSpan`."""
        self._span.end(_epoch_ns(at_s))


INVALID = SpanContext(0, 0, is_remote=False)


def _sdk_context(context: TraceContext) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if context.sampled else TraceFlags.DEFAULT)
    return SpanContext(int(context.trace_id, 16), int(context.span_id, 16), is_remote=True, trace_flags=flags)


def _epoch_ns(monotonic_s: float | None) -> int | None:
    """The time of the wall clock, in ns, that belongs to one of the monotonic clock."""
    return None if monotonic_s is None else time.time_ns() - int((time.monotonic() - monotonic_s) * 1e9)
