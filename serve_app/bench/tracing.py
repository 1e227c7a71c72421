"""What traces cost the gateway and the replica of a speech request: nothing that counts while they are off, and little
while they are on. CPU time of this process, without Ray and without a model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.replica.call_trace import traced_call
from deployments.tracing.calls import outgoing
from deployments.tracing.otlp import OtlpTracer
from deployments.tracing.settings import TracingSettings
from deployments.tracing.spans import Tracer, below_current, ended
from serve_app.bench.frame import Figure, Report, Sheet, at_most, carry_out, difference, interleaved
from serve_app.gateway.middleware.request_log import RequestLog

STEPS = 20
"""Steps of the request: two seconds of speech of a model that makes 100 ms in each."""
REQUESTS, ROUNDS = 50, 40
OFF, ON = "a request while tracing is off", "a request that is traced"
# Measured on two cores with other work beside: 3 us, and 1.3 to 1.4 ms (p95 2.2 ms).
FIGURES = (
    Figure(OFF, "us", at_most(15.0)),
    Figure(ON, "us", at_most(3_000.0)),
)


def run(quick: bool) -> Report:
    """Measures both; `quick` takes a quarter of the rounds."""
    rounds = ROUNDS // 4 if quick else ROUNDS
    return carry_out("tracing", FIGURES, partial(measure, rounds=rounds, exporter=EncodingExporter()), quick=quick)


def measure(sheet: Sheet, rounds: int, exporter: SpanExporter) -> None:
    """Measures both. `exporter` gets the spans of the requests that are traced."""
    settings = TracingSettings(endpoint="http://127.0.0.1:4318")
    with (
        closing(OtlpTracer(settings, "bench", exporter)) as tracer,
        sheet.measuring("requests with and without traces"),
    ):
        variants = {
            "bare": _variant(None, _bare),
            OFF: _variant(None, _serving(None)),
            ON: _variant(tracer, _serving(tracer)),
        }
        found = interleaved(variants, rounds)
        for name in (OFF, ON):
            added = difference(found[name], found["bare"])
            sheet.put(name, added.p50, f"CPU time added to a request of {STEPS} steps; {rounds} rounds, {added}")


class EncodingExporter(SpanExporter):
    """Makes what would be sent, and sends nothing."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS


def _variant(tracer: Tracer | None, app: ASGIApp) -> Callable[[], float]:
    """The CPU time of a request to an application behind the log of requests, in us."""
    logged = RequestLog(app, lambda record, route, status: None, tracer)

    async def requests() -> float:
        began = time.process_time()
        for _ in range(REQUESTS):
            scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/v1/audio/speech", "headers": []}
            await logged(scope, _received, _sent)
        return (time.process_time() - began) / REQUESTS * 1e6

    return lambda: asyncio.run(requests())


async def _bare(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def _serving(tracer: Tracer | None) -> ASGIApp:
    """An application that touches traces as a speech request does, at the gateway and at the replica."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with outgoing("speak", "hibari@cpu") as sent, traced_call(tracer, "speak", sent.get("trace"), "hibari") as call:
            for _ in range(STEPS):
                if call is not None:
                    now_s = time.monotonic()
                    call.stepped(now_s, now_s, now_s, [call], 1)
        with ended(below_current("encode")):
            await _bare(scope, receive, send)

    return app


async def _received() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _sent(_message: Message) -> None:
    """Takes it."""
