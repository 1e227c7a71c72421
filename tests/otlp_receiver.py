"""A collector on this machine: it takes OTLP over HTTP and keeps the spans."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

KINDS = {1: "internal", 2: "server", 3: "client"}


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """One span. Ids are in hexadecimal; the parent of a root is empty. `process` is the part of the service that made it."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    process: str
    start_ns: int
    end_ns: int
    failed: bool
    links: tuple[str, ...]
    attributes: dict[str, Any]


@dataclass(slots=True)
class Collector:
    """Keeps what was received, by any thread."""

    url: str
    received: list[ReceivedSpan] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def of_trace(self, trace_id: str) -> list[ReceivedSpan]:
        """The spans of a trace so far."""
        return [span for span in list(self.received) if span.trace_id == trace_id]


@dataclass(frozen=True, slots=True)
class SpanTree:
    """The spans of one trace."""

    spans: Sequence[ReceivedSpan]

    @property
    def roots(self) -> list[ReceivedSpan]:
        """The spans whose parent is not in the trace."""
        own = {span.span_id for span in self.spans}
        return [span for span in self.spans if span.parent_id not in own]

    def complete(self, parent_id: str) -> bool:
        """Whether the only root continues the span of the client, and each call has what continues it in another process."""
        parents = {span.parent_id for span in self.spans}
        continued = all(span.span_id in parents for span in self.spans if span.kind == "client")
        return continued and [root.parent_id for root in self.roots] == [parent_id]

    def below(self, parent: ReceivedSpan, *names: str) -> list[ReceivedSpan]:
        """The spans that are reached from a span by a way of these names."""
        found = [parent]
        for name in names:
            ids = {span.span_id for span in found}
            found = [span for span in self.spans if span.parent_id in ids and span.name == name]
        return found


def spans_of(body: bytes) -> Iterator[ReceivedSpan]:
    """The spans of an export request."""
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        process = {item.key: item.value.string_value for item in resource.resource.attributes}["service.instance.id"]
        for span in (span for scope in resource.scope_spans for span in scope.spans):
            yield ReceivedSpan(
                span.name,
                KINDS[span.kind],
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex(),
                process,
                span.start_time_unix_nano,
                span.end_time_unix_nano,
                span.status.code == 2,
                tuple(link.span_id.hex() for link in span.links),
                {item.key: _value(item.value) for item in span.attributes},
            )


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


@contextmanager
def collector() -> Iterator[Collector]:
    """Runs one in threads of this process."""
    here = Collector("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            here.paths.append(self.path)
            here.received.extend(spans_of(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield here
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
