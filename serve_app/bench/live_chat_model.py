"""A chat model that needs no computing: it streams sentences, as an OpenAI-compatible server does.

The first token comes after 0 to 50 ms. Each answer is another text, because the service keeps the audio of equal texts.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from deployments.text.sample_sentences import SENTENCES
from serve_app.bench.running_service import free_loopback_port

FIRST_TOKEN_S = (0.0, 0.05)
TOKEN_S = 0.02
"""Seconds from one word to the next."""
AT_LENGTH = "Answer at length."
"""The instructions of a session whose answers are long."""
SHORT, LONG = 1, 30
"""Sentences of an answer."""


def answers(number: int, sentences: int) -> str:
    """The text of an answer: different sentences, different ones for each number."""
    chosen = itertools.islice(itertools.cycle(SENTENCES), number % len(SENTENCES), None)
    return f"Answer {number}: " + " ".join(itertools.islice(chosen, sentences))


def sentences_of(request: dict[str, Any]) -> int:
    """How long the answer to a request for chat is."""
    return LONG if any(AT_LENGTH in str(message["content"]) for message in request["messages"]) else SHORT


class _StubHandler(BaseHTTPRequestHandler):
    numbers = itertools.count(1)
    random = np.random.default_rng(0)

    def do_POST(self) -> None:
        """Answers `POST /v1/chat/completions`."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        number = next(self.numbers)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            time.sleep(self.random.uniform(*FIRST_TOKEN_S))
            for word in answers(number, sentences_of(request)).split():
                self._send({"choices": [{"index": 0, "delta": {"content": word + " "}, "finish_reason": None}]})
                time.sleep(TOKEN_S)
            self._send({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            pass  # the response was cancelled

    def log_message(self, format: str, *arguments: object) -> None:
        """Logs nothing."""

    def _send(self, chunk: dict[str, Any]) -> None:
        facts = {"id": "stub", "object": "chat.completion.chunk", "created": 0, "model": "stub"}
        self.wfile.write(b"data: " + json.dumps(facts | chunk).encode() + b"\n\n")
        self.wfile.flush()


@contextmanager
def chat_model() -> Iterator[str]:
    """Runs it in threads of this process; gives its base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", free_loopback_port()), _StubHandler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
