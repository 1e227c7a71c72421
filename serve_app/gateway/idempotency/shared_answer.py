"""One answer that is made once and sent to every request that asks for it, while it is made and afterwards."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextvars import Context

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.gateway.idempotency.fingerprint import RequestFingerprint
from serve_app.gateway.request_context import RequestRecord

LOOK_AHEAD_BYTES = 256 * 1024
"""How far an answer is made ahead of the client that reads fastest."""


class SharedAnswer:
    """The answer of the application to one request.

    It is made in a task of its own, so that it goes on when its client loses the connection: for `rejoin_s` without any
    client. It waits for the fastest of them. `fits` says whether its bytes so far may be kept; an answer that does not fit is
    made only for those that have joined already, and waits for the slowest. `ended` is called once it is made or given up.
    """

    def __init__(
        self,
        record: RequestRecord,
        rejoin_s: float,
        fits: Callable[[SharedAnswer], bool],
        ended: Callable[[SharedAnswer], None],
    ) -> None:
        self.fingerprint: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        """None if the application did not read the whole body."""
        self.bytes = 0
        """Of the body so far, in memory or not."""
        self.is_too_long = False
        """Whether it is not kept."""
        self.record = record
        self.ended_s = math.inf
        self._status = 0
        self._rejoin_s = rejoin_s
        self._fits = fits
        self._ended = ended
        self._messages: list[Message] = []
        self._dropped = 0
        self._changed = asyncio.Event()
        self._readers: set[_AnswerReader] = set()
        self._task: asyncio.Task[None] | None = None
        self._given_up = asyncio.Event()
        self._rejoin: asyncio.TimerHandle | None = None
        self._body_arrived = asyncio.Event()

    @property
    def over(self) -> bool:
        """Whether nothing more is made."""
        return self._task is not None and self._task.done()

    @property
    def is_complete(self) -> bool:
        """Whether the whole answer was made, and is a success."""
        whole = bool(self._messages) and not self._messages[-1].get("more_body", True)
        return self.over and whole and not self.is_too_long and 200 <= self._status < 300 and not self.record.failure

    def begin(self, app: ASGIApp, scope: Scope, receive: Receive, context: Context) -> None:
        """Starts to make the answer, in a context of its own."""
        self.record.outlives_client = True
        self._task = asyncio.get_running_loop().create_task(self._make(app, scope, receive), context=context)
        self._task.add_done_callback(lambda _: self._end())

    async def send_to(self, send: Send, receive: Receive | None = None, after: str | None = None) -> bool:
        """Sends the answer; with `after`, the events after the one with that id. False if there is no such event, and then
        nothing was sent. `receive` tells, once the body has arrived, that the client has left. Raises what ended the answer
        early."""
        reader = _AnswerReader()
        self._join(reader)
        gone = asyncio.ensure_future(self._until_gone(receive)) if receive else None
        sending = asyncio.ensure_future(self._send_all(reader, send, after))
        try:
            await asyncio.wait({sending, *([gone] if gone else [])}, return_when=asyncio.FIRST_COMPLETED)
            return sending.result() if sending.done() else True
        finally:
            self._leave(reader)
            for task in (sending, gone):
                if task is not None:
                    task.cancel()

    async def _until_gone(self, receive: Receive) -> None:
        await self._body_arrived.wait()
        while (await receive())["type"] != "http.disconnect":
            pass

    async def _send_all(self, reader: _AnswerReader, send: Send, after: str | None) -> bool:
        held: Message | None = None
        while True:
            while (message := await self._next(reader)) is not None:
                last = message["type"] == "http.response.body" and not message.get("more_body", False)
                if after is not None and message["type"] == "http.response.start":
                    held = message
                elif after is not None:
                    if f"\nid: {after}\n".encode() in message.get("body", b""):
                        after = None
                        assert held is not None, "an answer begins with its start"
                        await send(held)
                else:
                    await send(message)
                if last:
                    return after is None
            assert self._task is not None
            self._task.result()  # it may have raised
            return after is None

    async def _next(self, reader: _AnswerReader) -> Message | None:
        """The next message for a reader; None when there are no more."""
        while reader.place == self._dropped + len(self._messages):
            if self.over:
                return None
            await self._change()
        message = self._messages[reader.place - self._dropped]
        reader.place += 1
        self._notify()
        return message

    def _join(self, reader: _AnswerReader) -> None:
        self._readers.add(reader)
        if self._rejoin is not None:
            self._rejoin.cancel()
            self._rejoin = None

    def _leave(self, reader: _AnswerReader) -> None:
        self._readers.discard(reader)
        self._notify()
        if self._readers or self.over:
            return
        if self.is_too_long or not self._body_arrived.is_set():
            self._give_up()
        else:
            self._rejoin = asyncio.get_running_loop().call_later(self._rejoin_s, self._give_up)

    def _give_up(self) -> None:
        self._given_up.set()
        if self._task is not None:
            self._task.cancel()

    async def _make(self, app: ASGIApp, scope: Scope, receive: Receive) -> None:
        print_of_body, arrived = RequestFingerprint(scope), False

        async def read() -> Message:
            nonlocal arrived
            if arrived:  # the client's own reading goes on in `send_to`
                await self._given_up.wait()
                return {"type": "http.disconnect"}
            message = await receive()
            if message["type"] == "http.request":
                print_of_body.feed(message.get("body", b""))
                arrived = not message.get("more_body", False)
                if arrived:
                    self.fingerprint.set_result(print_of_body.digest())
                    self._body_arrived.set()
            return message

        await app(scope, read, self._add)

    async def _add(self, message: Message) -> None:
        self._messages.append(message)
        self._status = message.get("status", self._status)
        self.bytes += len(message.get("body", b""))
        self.is_too_long = self.is_too_long or not self._fits(self)
        if self.is_too_long and not self._readers:
            self._give_up()
        self._notify()
        while self._is_far_ahead():
            await self._change()

    def _is_far_ahead(self) -> bool:
        """Whether the clients must read before more is made."""
        if not self._readers:
            return False
        if self.is_too_long:
            self._forget_what_all_have()
        place = (min if self.is_too_long else max)(reader.place for reader in self._readers)
        unread = self._messages[place - self._dropped :]
        return sum(len(message.get("body", b"")) for message in unread) > LOOK_AHEAD_BYTES

    def _forget_what_all_have(self) -> None:
        read = min(reader.place for reader in self._readers) - self._dropped
        del self._messages[:read]
        self._dropped += read

    def forget(self) -> None:
        """Frees the memory of an answer that is over and not kept."""
        self._dropped += len(self._messages)
        self._messages.clear()

    async def _change(self) -> None:
        await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _end(self) -> None:
        if not self.fingerprint.done():
            self.fingerprint.set_result(None)
        self._body_arrived.set()
        assert self._task is not None
        if not self._task.cancelled():
            self._task.exception()  # readers raise it; without any, nobody does
        self._notify()
        self.record.outlives_client = False
        self._ended(self)


class _AnswerReader:
    """How many messages of an answer one client has."""

    __slots__ = ("place",)

    def __init__(self) -> None:
        self.place = 0
