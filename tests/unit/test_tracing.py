"""Traces: contexts of clients, spans of requests, calls and steps, and that nothing is done while tracing is off."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from cluster.models import Model
from deployments.errors import fail
from deployments.replica.call_trace import MOST_STEPS, CallTrace, traced_call
from deployments.replica.engine_thread import EngineThread
from deployments.replica.metrics import StepMetrics
from deployments.replica.step_gate import Stepper
from deployments.replica.step_scheduling import StepRequest
from deployments.settings import StepSettings
from deployments.tracing.calls import METHODS
from deployments.tracing.context import TraceContext, parsed
from deployments.tracing.otlp import OtlpTracer
from deployments.tracing.settings import TracingSettings
from deployments.tracing.spans import SPAN, below_current, ended, within
from deployments.tracing.start import tracer_of
from serve_app.bench import tracing as bench
from serve_app.bench.frame import Sheet
from serve_app.config import AppConfig
from serve_app.gateway.deployment import directory_of
from serve_app.gateway.middleware.request_log import RequestLog
from serve_app.gateway.request_context import current_request
from serve_app.gateway.routing.directory import ModelDirectory
from tests.otlp_receiver import collector
from tests.unit.fakes import FakeHandle

TRACE, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{SPAN_ID}-01"
ON = TracingSettings(endpoint="http://127.0.0.1:1")


class Kept(SpanExporter):
    """Keeps spans instead of sending them."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Any) -> SpanExportResult:
        self.spans.extend(spans)
        return SpanExportResult.SUCCESS


class Traced:
    """A tracer, and what it has exported."""

    def __init__(self, settings: TracingSettings = ON) -> None:
        self.exporter = Kept()
        self.tracer = OtlpTracer(settings, "a test", self.exporter)

    def spans(self) -> dict[str, ReadableSpan]:
        """Those that have ended, by name."""
        self.tracer.flush()
        return {span.name: span for span in self.exporter.spans}


@pytest.fixture
def traced() -> Traced:
    return Traced()


def context_of(span: ReadableSpan) -> TraceContext:
    own = span.get_span_context()
    assert own is not None
    return TraceContext(f"{own.trace_id:032x}", f"{own.span_id:016x}")


def parent_id(span: ReadableSpan) -> str:
    return "" if span.parent is None else f"{span.parent.span_id:016x}"


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (TRACEPARENT, True),
        (f"00-{TRACE}-{SPAN_ID}-00", False),
        (f" {TRACEPARENT} ", True),
        (f"cc-{TRACE}-{SPAN_ID}-03-what-a-later-version-adds", True),
    ],
)
def test_the_header_of_a_client_is_read(value: str, sampled: bool) -> None:
    assert parsed(value) == TraceContext(TRACE, SPAN_ID, sampled)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "nonsense",
        f"00-{TRACE}-{SPAN_ID}",
        f"00-{TRACE.upper()}-{SPAN_ID}-01",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN_ID}-01",
        f"{TRACEPARENT}-more",
        f"00-{TRACE}-{SPAN_ID}-01\n00",
    ],
)
def test_a_header_that_is_not_valid_counts_as_none(value: str) -> None:
    assert parsed(value) is None


def test_a_context_is_written_as_it_is_read() -> None:
    assert TraceContext(TRACE, SPAN_ID).traceparent == TRACEPARENT


async def answer(request: Request) -> Response:
    record = current_request()
    record.model = "hibari"
    with within("inside"):
        record.failure = request.query_params.get("failure")
    return PlainTextResponse("Text.", 500 if record.failure else 200)


def client_of(traced: Traced | None) -> TestClient:
    routes = [Route("/v1/{what}", answer), Route("/livez", answer)]
    app = Starlette(routes=routes)
    return TestClient(RequestLog(app, lambda record, route, status: None, traced.tracer if traced else None))


def test_a_request_that_is_not_traced_has_no_span_and_its_answer_no_id(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ray.serve"):
        given = client_of(None).get("/v1/speech")
    assert "x-trace-id" not in given.headers
    assert "trace_id" not in json.loads(caplog.messages[-1])


def test_the_id_of_a_clients_trace_is_in_log_and_answer_while_tracing_is_off(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ray.serve"):
        given = client_of(None).get("/v1/speech", headers={"traceparent": TRACEPARENT})
    assert given.headers["x-trace-id"] == TRACE
    assert json.loads(caplog.messages[-1])["trace_id"] == TRACE


def test_a_request_continues_the_trace_of_its_client(traced: Traced) -> None:
    given = client_of(traced).get("/v1/speech", headers={"traceparent": TRACEPARENT, "x-request-id": "mine"})
    spans = traced.spans()
    request = spans["GET /v1/{what}"]
    assert given.headers["x-trace-id"] == TRACE
    assert context_of(request).trace_id == TRACE
    assert parent_id(request) == SPAN_ID
    assert parent_id(spans["inside"]) == context_of(request).span_id
    said = dict(request.attributes or {})
    assert said["http.response.status_code"] == 200
    assert (said["motet.model"], said["motet.request_id"]) == ("hibari", "mine")
    assert request.status.is_unset


def test_a_request_without_a_client_s_trace_begins_one(traced: Traced) -> None:
    given = client_of(traced).get("/v1/speech")
    request = traced.spans()["GET /v1/{what}"]
    assert parent_id(request) == ""
    assert given.headers["x-trace-id"] == context_of(request).trace_id


def test_a_client_that_does_not_record_is_not_recorded(traced: Traced) -> None:
    given = client_of(traced).get("/v1/speech", headers={"traceparent": f"00-{TRACE}-{SPAN_ID}-00"})
    assert given.headers["x-trace-id"] == TRACE
    assert traced.spans() == {}


def test_a_failed_request_says_why(traced: Traced) -> None:
    client_of(traced).get("/v1/speech?failure=engine")
    request = traced.spans()["GET /v1/{what}"]
    assert not request.status.is_ok and not request.status.is_unset
    assert dict(request.attributes or {})["error.type"] == "engine"


def test_health_checks_are_not_traced(traced: Traced) -> None:
    assert client_of(traced).get("/livez").status_code == 200
    assert traced.spans() == {}


def test_a_share_of_the_requests_is_traced() -> None:
    traced = Traced(TracingSettings(endpoint="http://127.0.0.1:1", sampled_share=1e-9))
    client = client_of(traced)
    assert "x-trace-id" not in client.get("/v1/speech").headers
    assert client.get("/v1/speech", headers={"traceparent": TRACEPARENT}).headers["x-trace-id"] == TRACE
    assert len(traced.spans()) == 2


class Replica:
    """Keeps the contexts that calls bring."""

    def __init__(self) -> None:
        self.contexts: list[TraceContext | None] = []

    async def speak(self, text: str, trace: TraceContext | None = None) -> AsyncIterator[str]:
        self.contexts.append(trace)
        yield text

    async def listen(self, text: str, trace: TraceContext | None = None) -> str:
        self.contexts.append(trace)
        return text

    async def traits(self) -> str:
        """Takes no trace."""
        return "traits"


@pytest.fixture
def replica() -> Replica:
    return Replica()


@pytest.fixture
def models(replica: Replica) -> ModelDirectory:
    config = AppConfig(models={"echo": Model(engine="identity")})
    return directory_of(config, {"echo": cast("dict[str, Any]", {"cpu": FakeHandle(replica)})})


async def test_calls_of_a_request_that_is_not_traced_carry_nothing(models: ModelDirectory, replica: Replica) -> None:
    assert [answer async for answer in models.stream("echo", "speak", "Hello.")] == ["Hello."]
    assert await models.call("echo", "listen", "Hello.") == "Hello."
    assert replica.contexts == [None, None]


async def test_calls_of_a_request_that_is_traced_carry_their_span(
    models: ModelDirectory, replica: Replica, traced: Traced
) -> None:
    root = traced.tracer.request(None)
    assert root is not None
    token = SPAN.set(root)
    try:
        assert [answer async for answer in models.stream("echo", "speak", "Hello.")] == ["Hello."]
        assert await models.call("echo", "listen", "Hello.") == "Hello."
        assert await models.call("echo", "traits") == "traits"
    finally:
        SPAN.reset(token)
        root.end()
    spans = traced.spans()
    calls = [spans["speak echo@cpu"], spans["listen echo@cpu"]]
    assert replica.contexts == [context_of(call) for call in calls]
    assert [parent_id(call) for call in calls] == [root.context.span_id] * 2
    assert "traits echo@cpu" not in spans


def test_every_traced_method_takes_a_trace() -> None:
    from deployments.replica.recognizer import Recognizer
    from deployments.replica.separator import Separator
    from deployments.replica.synthesizer import Synthesizer

    methods = {
        name
        for replica in (Recognizer, Separator, Synthesizer)
        for name, method in vars(replica).items()
        if callable(method) and not name.startswith("_") and "trace" in method.__code__.co_varnames
    }
    assert methods == METHODS


@pytest.fixture
def stepper(monkeypatch: pytest.MonkeyPatch) -> Stepper[str, str]:
    """A stepper outside of Ray Serve, whose batches look for the limits of their replica."""
    limits = SimpleNamespace(_deployment_config=SimpleNamespace(max_ongoing_requests=100))
    monkeypatch.setattr("ray.serve.get_replica_context", lambda: limits)
    settings = StepSettings(max_batch_size=3, batch_wait_ms=50.0, gate=False)  # a batch closes when it is full
    return Stepper(lambda items: [item.upper() for item in items], EngineThread("test"), settings, StepMetrics("test"))


async def test_a_step_is_linked_to_the_other_requests_that_it_served(
    stepper: Stepper[str, str], traced: Traced
) -> None:
    parents = [TraceContext(f"{number:032x}", f"{number:016x}") for number in (1, 2)]

    async def call(parent: TraceContext | None) -> str:
        with traced_call(traced.tracer, "speak", parent, "hibari") as trace:
            await stepper.step("first", StepRequest(0.0, trace=trace))
            return (await stepper.step("a", StepRequest(0.0, trace=trace))).result

    assert await asyncio.gather(*(call(parent) for parent in [*parents, None])) == ["A"] * 3
    traced.tracer.flush()
    by_trace = {
        trace: [s for s in traced.exporter.spans if context_of(s).trace_id == f"{trace:032x}"] for trace in (1, 2)
    }
    calls = {trace: next(s for s in spans if s.name == "speak") for trace, spans in by_trace.items()}
    for trace, other in ((1, 2), (2, 1)):
        assert [s.name for s in sorted(by_trace[trace], key=lambda s: s.end_time or 0) if s.name != "speak"] == [
            "queue",
            "step",
        ] * 2
        steps = [s for s in by_trace[trace] if s.name == "step"]
        assert {parent_id(s) for s in by_trace[trace] if s.name != "speak"} == {context_of(calls[trace]).span_id}
        assert dict(steps[-1].attributes or {})["motet.batch_size"] == 3
        assert [f"{link.context.span_id:016x}" for link in steps[-1].links] == [context_of(calls[other]).span_id]
        assert parent_id(calls[trace]) == f"{trace:016x}"
        assert dict(calls[trace].attributes or {})["motet.steps"] == 2


def test_a_long_call_has_spans_for_its_first_steps_only(traced: Traced) -> None:
    with traced_call(traced.tracer, "speak", TraceContext(TRACE, SPAN_ID), "hibari") as call:
        assert call is not None
        for _ in range(MOST_STEPS + 5):
            call.stepped(1.0, 2.0, 3.0, [call], 1)
    traced.tracer.flush()
    assert len(traced.exporter.spans) == 2 * MOST_STEPS + 1
    assert dict(traced.spans()["speak"].attributes or {})["motet.steps"] == MOST_STEPS + 5


def test_the_first_wait_begins_with_the_call(traced: Traced) -> None:
    span = traced.tracer.continued("speak", TraceContext(TRACE, SPAN_ID))
    call = CallTrace(span, came_s=10.0)
    call.stepped(14.0, 15.0, 17.0, [call], 1)
    span.end()
    spans = traced.spans()
    queue, step = spans["queue"], spans["step"]
    assert queue.start_time and queue.end_time and step.start_time and step.end_time
    assert queue.end_time - queue.start_time == pytest.approx(5e9, rel=1e-3)
    assert step.end_time - step.start_time == pytest.approx(2e9, rel=1e-3)


def test_a_call_without_a_context_has_no_trace(traced: Traced) -> None:
    with traced_call(traced.tracer, "speak", None, "hibari") as call:
        assert call is None
    assert traced.spans() == {}


def test_a_span_says_what_ended_it(traced: Traced) -> None:
    root = traced.tracer.request(None)
    assert root is not None
    errors: dict[str, BaseException] = {
        "refused": fail("overloaded", "Full.", "Wait."),
        "broken": ValueError(),
        "left": GeneratorExit(),
    }
    for name, error in errors.items():
        with pytest.raises(type(error)), ended(root.child(name)):
            raise error
    spans = traced.spans()
    said = {name: dict(spans[name].attributes or {}) for name in errors}
    assert said == {
        "refused": {"error.type": "overloaded"},
        "broken": {"error.type": "ValueError"},
        "left": {"motet.cancelled": True},
    }


def test_while_tracing_is_off_there_is_no_tracer_and_no_span() -> None:
    assert tracer_of(TracingSettings(), "a process") is None
    with within("anything") as span, ended(below_current("anything")):
        assert span is None
        assert SPAN.get() is None
    with traced_call(None, "speak", TraceContext(TRACE, SPAN_ID), "hibari") as call:
        assert call is None


def test_spans_reach_a_collector() -> None:
    with collector() as here:
        tracer = tracer_of(TracingSettings(endpoint=f"{here.url}/", service_name="speech"), "gateway/one")
        assert isinstance(tracer, OtlpTracer)
        root = tracer.request(parsed(TRACEPARENT))
        assert root is not None
        root.child("inside", "client").end()
        root.end()
        tracer.flush()
        assert here.paths == ["/v1/traces"]
        inside, request = here.received
    assert (request.name, request.kind, request.trace_id, request.parent_id) == ("request", "server", TRACE, SPAN_ID)
    assert (inside.name, inside.kind, inside.parent_id) == ("inside", "client", request.span_id)
    assert request.process == "gateway/one"


@pytest.mark.parametrize("endpoint", ["localhost:4318", "grpc://localhost:4317", "http://", "http:///v1/traces"])
def test_an_endpoint_that_is_no_address_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="endpoint"):
        TracingSettings(endpoint=endpoint)


class KeptUntilTheEnd(Kept):
    """Notes that it was ended."""

    ended = False

    def shutdown(self) -> None:
        self.ended = True


def test_the_benchmark_sends_all_spans_and_ends_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "REQUESTS", 2)
    sheet, exporter = Sheet(bench.FIGURES, lambda _: None), KeptUntilTheEnd()
    bench.measure(sheet, rounds=1, exporter=exporter)
    assert all(figure.measured for figure in sheet.figures)
    assert len(exporter.spans) >= 2 * bench.STEPS and exporter.ended
