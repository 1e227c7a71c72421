"""A chat model on this machine that answers by a script, and keeps what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Iterable[dict[str, Any] | float | int]
"""Deltas and pauses in seconds. An int is a status with which the request is refused."""


class StubChatModel:
    """Answers each request with what `reply` makes of it. `closed` is set when a client closes an answer early."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.reply: Callable[[dict[str, Any]], Answer] = lambda _: words("Hello.")
        self.closed = threading.Event()

    def begin(self) -> None:
        """Forgets what was asked before."""
        self.requests.clear()
        self.closed.clear()

    @property
    def heard(self) -> str:
        """The last words of the user in the latest request."""
        said = [message["content"] for message in self.requests[-1]["messages"] if message["role"] == "user"]
        return str(said[-1])


def words(text: str, finish: str = "stop", pause_s: float = 0.01) -> Iterator[dict[str, Any] | float]:
    """A text, word by word."""
    for word in text.split():
        yield {"delta": {"content": f"{word} "}, "finish_reason": None}
        yield pause_s
    yield {"delta": {}, "finish_reason": finish}


def call(name: str, *arguments: str) -> Iterator[dict[str, Any]]:
    """A function call whose arguments arrive in parts."""
    for number, part in enumerate(arguments):
        function = {"arguments": part, **({} if number else {"name": name})}
        made = {"index": 0, "type": "function", "function": function, **({} if number else {"id": "call_1"})}
        yield {"delta": {"tool_calls": [made]}, "finish_reason": None}
    yield {"delta": {}, "finish_reason": "tool_calls"}


@contextmanager
def stub_chat_model() -> Iterator[tuple[StubChatModel, str]]:
    """Runs one in threads of this process; gives it and its base URL."""
    stub = StubChatModel()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            stub.requests.append(request | {"path": self.path, "key": self.headers["authorization"]})
            try:
                self._answer(stub.reply(request))
            except OSError:
                stub.closed.set()

        def _answer(self, answer: Answer) -> None:
            begun = False
            for part in answer:
                if isinstance(part, int):
                    self.send_error(part)
                    return
                if isinstance(part, float):
                    time.sleep(part)
                    continue
                if not begun:
                    self.send_response(200)
                    self.send_header("content-type", "text/event-stream")
                    self.end_headers()
                    begun = True
                self._send(json.dumps(part if "error" in part else {"choices": [{"index": 0, **part}]}))
            self._send("[DONE]")

        def _send(self, data: str) -> None:
            self.wfile.write(f"data: {data}\n\n".encode())
            self.wfile.flush()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield stub, f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
