"""Deadlines and limits for the connections of Ray Serve's own HTTP servers, which uvicorn does not have.

uvicorn closes a connection only if it is idle between two requests. One that sends nothing, or a byte of a header from time
to time, stays open, and headers may have any length.
"""

from __future__ import annotations

import asyncio
import os
import resource
from collections import Counter
from functools import cache, partialmethod
from typing import Any

from uvicorn import config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serve_app.edge.addresses import client_network, is_loopback
from serve_app.edge.errors import edge_error_body, edge_error_headers
from serve_app.edge.settings import OTHER_FILES, EdgeSettings, edge_of

MAX_HEADER_BYTES = 64 * 1024
"""The most for a request's line and headers together. HAProxy allows a quarter of that."""
LINGER_S = 30.0
"""How long a client may go on sending a body after its answer."""
BACKLOG = 8192
"""Connections that may wait to be accepted; the kernel has its own limit (`somaxconn`). uvicorn's 2,048 are too few: 4,200
connections that open in 0.3 s overflow the queue, and the next client waits a second until TCP sends its packet again."""


def install() -> None:
    """Makes all servers that start in this process from now on use this protocol."""
    config.Config.__init__ = partialmethod(config.Config.__init__, backlog=BACKLOG)  # type: ignore[method-assign, assignment]
    config.HTTP_PROTOCOLS["auto"] = f"{__name__}:EdgeProtocol"


class Connections:
    """The connections of one server, and those of them that have not sent all headers of a request, oldest first."""

    def __init__(self, edge: EdgeSettings, files: int) -> None:
        self.edge = edge
        self._most = min(edge.max_connections, max(1, files - OTHER_FILES))
        self._open: set[EdgeProtocol] = set()
        self._unknown: dict[EdgeProtocol, None] = {}
        self._of_network: Counter[str] = Counter()

    def admit(self, connection: EdgeProtocol) -> bool:
        """Whether the connection is within the limits. At the limit of all connections, the one that has waited longest for
        its headers is closed."""
        most, network = self.edge.max_connections_per_address, connection.network
        if most is not None and self._of_network[network] >= most and not is_loopback(connection.address):
            return False
        if len(self._open) >= self._most:
            oldest = next(iter(self._unknown), None)
            if oldest is None:
                return False
            oldest.give_up()
            self.leave(oldest)
        self._open.add(connection)
        self._of_network[network] += 1
        return True

    def waits(self, connection: EdgeProtocol) -> None:
        """The connection waits for the headers of a request."""
        self._unknown[connection] = None

    def known(self, connection: EdgeProtocol) -> None:
        """The connection no longer waits for headers."""
        self._unknown.pop(connection, None)

    def leave(self, connection: EdgeProtocol) -> None:
        """The connection is closed. Safe to call twice."""
        self.known(connection)
        if connection in self._open:
            self._open.discard(connection)
            self._of_network[connection.network] -= 1
            if not self._of_network[connection.network]:
                del self._of_network[connection.network]


@cache
def connections() -> Connections:
    """The connections of this process, which has one server."""
    return Connections(edge_of(os.environ), resource.getrlimit(resource.RLIMIT_NOFILE)[0])


class EdgeProtocol(HttpToolsProtocol):
    """One connection, with limits on the time and length of headers, and on answers that the client does not read."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._all = connections()
        self._timer: asyncio.TimerHandle | None = None
        self._owes_headers = False
        self._too_long = False
        self._unread: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self.address = self.network = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by asyncio."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self.network = client_network(self.address)
        if self._all.admit(self):
            self._wait_for_headers()
        else:
            self.refuse(503)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._stop_waiting()
        self._stop_unread()
        self._all.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        if self.transport.is_closing():
            return
        if self._rests():
            self._wait_for_headers()
            self._header_bytes += len(data)
        super().data_received(data)
        if self._owes_headers and self._header_bytes > MAX_HEADER_BYTES:
            self.refuse(431)
        elif self.cycle and self._rests() and not self._owes_headers and self.timeout_keep_alive_task is None:
            # The rest of a body that was answered before its end: uvicorn has stopped its own timer.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def handle_websocket_upgrade(self) -> None:
        """Called by the parser. Another protocol takes over and gets the end of the connection."""
        super().handle_websocket_upgrade()
        # An earlier request on this connection must not start the timer that closes it when it rests.
        self.cycle = None  # type: ignore[assignment]
        websocket: Any = self.transport.get_protocol()
        ends = websocket.connection_lost

        def connection_lost(exc: Exception | None) -> None:
            self._all.leave(self)
            ends(exc)

        websocket.connection_lost = connection_lost

    def on_headers_complete(self) -> None:
        """Called by the parser, which stops if this raises."""
        self._stop_waiting()
        self._too_long = len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEADER_BYTES
        if self._too_long:
            raise ValueError("the headers are too long")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if self.cycle is not None and self.cycle.response_complete:
            self.cycle.more_body = False
            self._stop_waiting()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Called by the request."""
        super().on_response_complete()
        if self.cycle.more_body and not self.transport.is_closing():
            self._timer = self.loop.call_later(LINGER_S, self.transport.close)

    def pause_writing(self) -> None:
        """Called by asyncio when the client does not read."""
        super().pause_writing()
        self._unread = self.loop.call_later(self._all.edge.unread_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Called by asyncio when the client reads again."""
        self._stop_unread()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Called for errors of the parser."""
        self.refuse(431 if self._too_long else 400)

    def refuse(self, status: int) -> None:
        """Answers with an error in the service's format and closes the connection."""
        self._stop_waiting()
        headers = {**dict(edge_error_headers(status)), b"connection": b"close"}
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers.items())
        self.transport.write(STATUS_LINE[status] + lines + b"\r\n" + edge_error_body(status))
        self.transport.close()

    def give_up(self) -> None:
        """Closes a connection whose headers did not arrive. One that never sent a byte gets no answer."""
        if self._header_bytes:
            self.refuse(408)
        else:
            self._stop_waiting()
            self.transport.close()

    def _rests(self) -> bool:
        """Whether no request is under way: its body has arrived and its answer has ended."""
        return self.cycle is None or (self.cycle.response_complete and not self.cycle.more_body)

    def _wait_for_headers(self) -> None:
        if not self._owes_headers:
            self._owes_headers = True
            self._timer = self.loop.call_later(self._all.edge.header_s, self.give_up)
            self._all.waits(self)

    def _stop_waiting(self) -> None:
        self._all.known(self)
        self._owes_headers, self._header_bytes = False, 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
