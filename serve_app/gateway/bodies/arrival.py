"""A multipart form while it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing

from fastapi import Request
from starlette.requests import ClientDisconnect

from deployments.errors import MotetError, fail
from serve_app.gateway.bodies.form_parser import FormParser
from serve_app.gateway.bodies.input_thread import in_input_thread

BLOCK_BYTES = 256 * 1024
"""Of a form, that are parsed at once at most."""
ANY = asyncio.FIRST_COMPLETED
INLINE_BYTES = 4 * 1024
"""A form up to this size is parsed on the event loop, in at most 2 ms whatever it contains."""


class FormArrival:
    """Parses a form in a task of its own, as fast as it arrives, whether or not somebody waits for it: many clients read no
    answer before they have sent everything. Close it after use, which removes its files.
    """

    def __init__(self, request: Request, content_type: str, long_texts: Collection[str] = ()) -> None:
        """`long_texts`: see `FormParser`."""
        self.parser = FormParser(content_type, long_texts)
        self.announced_bytes = _announced(request)
        """The length of the body, if it is known."""
        self.left = False
        """Whether the client disconnected before the end."""
        self._error: Exception | None = None
        self._progress = asyncio.Event()
        self._task = asyncio.create_task(self._read(request.stream()))

    def on_end(self, call: Callable[[], None]) -> None:
        """Calls `call` when nothing more arrives."""
        self._task.add_done_callback(lambda _: call())

    @property
    def over(self) -> bool:
        """Whether nothing more arrives."""
        return self._task.done()

    async def until(self, arrived: Callable[[], bool]) -> None:
        """Waits until `arrived` is true or the form is over. Raises what ended it early: `MotetError`, or Starlette's
        `ClientDisconnect`."""
        while not (arrived() or self.over):
            self._progress.clear()
            waiting = asyncio.ensure_future(self._progress.wait())
            try:
                await asyncio.wait({self._task, waiting}, return_when=ANY)
            finally:
                waiting.cancel()
        if self._error is not None:
            raise self._error

    async def close(self) -> None:
        """Ends it and removes the files. Safe to call twice. Freeing the space of a large file takes a disk some time."""
        if not self.over:
            self._error = ClientDisconnect()
            self._task.cancel()
        await asyncio.wait({self._task})
        await in_input_thread(self.parser.on_disk, self.parser.close)

    async def _read(self, chunks: AsyncGenerator[bytes]) -> None:
        large = False
        try:
            async with aclosing(blocks_of(chunks)) as blocks:
                async for block in blocks:
                    large = len(block) > INLINE_BYTES
                    await in_input_thread(large, self.parser.feed, block)
                    self._progress.set()
            await in_input_thread(large, self.parser.end)
        except Exception as error:
            self.left = isinstance(error, ClientDisconnect)
            self._error = error


async def blocks_of(chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """The chunks. Those that are there already are joined up to `BLOCK_BYTES`, because a block costs a call of a thread."""
    waiting = bytearray()
    coming: asyncio.Future[bytes | None] = asyncio.ensure_future(anext(chunks, None))
    try:
        while True:
            await asyncio.wait({coming}, timeout=0 if waiting else None)
            if coming.done() and (chunk := coming.result()) is not None:
                waiting += chunk
                coming = asyncio.ensure_future(anext(chunks, None))
                if len(waiting) < BLOCK_BYTES:
                    continue
            if waiting:
                yield bytes(waiting)
                waiting.clear()
            elif coming.done():
                return
    finally:
        coming.cancel()


def late_fields(name: str) -> MotetError:
    """The error for a form whose field `name` came after the recording, when the answer had begun."""
    cause = f"The form's field {name!r} came after the recording, whose answer had begun already."
    return fail("invalid", cause, "Send all fields before the file.", param=name, code="late_field")


def _announced(request: Request) -> int | None:
    length = request.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdecimal() else None
