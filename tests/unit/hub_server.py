"""A small server that speaks the hub's protocol on loopback, with the mishaps of real networks.

As the real hub, it answers small files through a redirect to a path of its own, and large ones through a redirect to another
host, which gets no token; it states a SHA-256 for large files and git's SHA-1 for small ones.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
LARGE = (".safetensors", ".bin", ".onnx")


@dataclass
class Repository:
    """A model of the hub at one commit."""

    files: dict[str, bytes]
    commit: str = COMMIT
    licence: str = "mit"
    task: str = ""
    library: str = ""
    gated: bool = False
    stated: dict[str, bytes] = field(default_factory=dict)
    """Other contents, whose digests and sizes are stated in place of the files' own."""

    def facts(self, name: str) -> dict[str, Any]:
        """The answer of /api/models."""
        siblings = [_sibling(path, self.stated.get(path, data)) for path, data in self.files.items()]
        facts = {"id": name, "modelId": name, "sha": self.commit, "siblings": siblings, "tags": [], "gated": self.gated}
        if self.task:
            facts["pipeline_tag"] = self.task
        if self.library:
            facts["library_name"] = self.library
        return {**facts, "cardData": {"license": self.licence}}


@dataclass
class Mishap:
    """What goes wrong with one transfer of a file: the connection is cut after `cut_after` bytes, or nothing more comes after
    `stops_after`, until the client is gone; or `status` is answered, or the range is ignored."""

    path: str
    cut_after: int | None = None
    status: int | None = None
    ignores_range: bool = False
    no_range: bool = False
    """416 is answered."""
    stops_after: int | None = None
    stopped: threading.Event = field(default_factory=threading.Event)
    """Set when nothing more comes."""


@dataclass
class Asked:
    """A request for a file's content."""

    path: str
    range: str
    token: str


class Hub:
    """The server, its repositories, and what clients asked of it."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.mishaps: deque[Mishap] = deque()
        self.tokens: set[str] = set()
        """Accounts that have accepted the conditions of gated repositories."""
        self.asked: list[Asked] = []
        self.listed: list[str] = []
        """The tokens of requests to /api."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{port}"
        self.other_host = f"http://localhost:{port}"

    def mishap_of(self, path: str) -> Mishap | None:
        """The next mishap, if it is one of this file."""
        if self.mishaps and self.mishaps[0].path == path:
            return self.mishaps.popleft()
        return None

    @contextmanager
    def running(self) -> Iterator[Hub]:
        """Serves as long as the context lasts."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def _sibling(path: str, data: bytes) -> dict[str, Any]:
    facts: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git_sha1(data)}
    if path.endswith(LARGE):
        facts["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return facts


def git_sha1(data: bytes) -> str:
    """Git's digest of a content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            parts = path.strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                self._facts(parts[2:])
            elif parts[0] == "content":
                self._content("/".join(parts[1:3]), "/".join(parts[3:]))
            elif len(parts) > 4 and parts[2] == "resolve":
                self._redirect("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
            else:
                self._fail(404, "EntryNotFound")

        def _facts(self, parts: list[str]) -> None:
            hub.listed.append(self.headers.get("Authorization", ""))
            name, revision = "/".join(parts[:2]), parts[3] if len(parts) > 3 else "main"
            repository = hub.repositories.get(name)
            if repository is None:
                self._fail(404, "RepoNotFound")
            elif revision not in ("main", repository.commit):
                self._fail(404, "RevisionNotFound")
            else:
                assert "blobs" in parse_qs(urlsplit(self.path).query)
                self._send(200, json.dumps(repository.facts(name)).encode(), {"Content-Type": "application/json"})

        def _redirect(self, name: str, revision: str, path: str) -> None:
            repository = hub.repositories[name]
            if repository.gated and self.headers.get("Authorization", "").removeprefix("Bearer ") not in hub.tokens:
                self._fail(401, "GatedRepo")
            elif revision != repository.commit or path not in repository.files:
                self._fail(404, "EntryNotFound")
            else:
                large = path.endswith(LARGE)
                where = f"{hub.other_host if large else ''}/content/{name}/{path}"
                self._send(302 if large else 307, b"", {"Location": where, "X-Repo-Commit": repository.commit})

        def _content(self, name: str, path: str) -> None:
            hub.asked.append(Asked(path, self.headers.get("Range", ""), self.headers.get("Authorization", "")))
            mishap, data = hub.mishap_of(path), hub.repositories[name].files[path]
            if mishap and mishap.status:
                self._send(mishap.status, b"")
                return
            begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
            if begin and not (mishap and mishap.ignores_range):
                if begin >= len(data) or (mishap and mishap.no_range):
                    self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                    return
                span = f"bytes {begin}-{len(data) - 1}/{len(data)}"
                self._send(206, data[begin:], {"Content-Range": span}, mishap)
            else:
                self._send(200, data, {}, mishap)

        def _fail(self, status: int, code: str) -> None:
            self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

        def _send(
            self, status: int, body: bytes, headers: dict[str, str] | None = None, mishap: Mishap | None = None
        ) -> None:
            self.send_response(status)
            for header, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(header, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if mishap and mishap.cut_after is not None:
                self.wfile.write(body[: mishap.cut_after])
                self.wfile.flush()
                self.close_connection = True
                return
            if mishap and mishap.stops_after is not None:
                self.wfile.write(body[: mishap.stops_after])
                self.wfile.flush()
                mishap.stopped.set()
                self.connection.recv(1)  # until the client closes
                self.close_connection = True
                return
            self.wfile.write(body)

    return Handler
