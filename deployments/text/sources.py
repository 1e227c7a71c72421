"""Where a stream gets its pieces of text: all of them at once, or as they are written."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from deployments.errors import fail
from deployments.settings import ArrivalSettings, PieceSettings
from deployments.text.segmentation import Cutter, has_words
from deployments.text.speakers import without_marks

CUT_AT_ONCE = 64
"""Characters. The event loop is held up for no longer than these take, whatever they are: at most about a millisecond."""


class PieceSource(Protocol):
    """A text in pieces. They are numbered from 0, and any of them can be asked for again."""

    @property
    def pieces(self) -> Sequence[str]:
        """All that there are so far."""

    async def take(self, first: int, characters: float) -> tuple[str, ...]:
        """As many pieces from number `first` on as are there and have no more `characters` together, but at least one, for
        which it waits; none at the end of the text."""

    def ends_at(self, number: int) -> bool:
        """Whether it is known to have no piece with that number."""


class WholeText:
    """A text that is there."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = pieces

    async def take(self, first: int, characters: float) -> tuple[str, ...]:
        """See `PieceSource`; without waiting."""
        return group_of(self.pieces, first, characters)

    def ends_at(self, number: int) -> bool:
        """See `PieceSource`."""
        return number >= len(self.pieces)


class WithoutMarks:
    """The words of a script without its speakers' marks, for one voice that reads all of them."""

    def __init__(self, text: PieceSource) -> None:
        self._text = text

    @property
    def pieces(self) -> Sequence[str]:
        """See `PieceSource`."""
        return without_marks(self._text.pieces)

    async def take(self, first: int, characters: float) -> tuple[str, ...]:
        """See `PieceSource`."""
        return without_marks(await self._text.take(first, characters))

    def ends_at(self, number: int) -> bool:
        """See `PieceSource`."""
        return self._text.ends_at(number)


class ArrivingText:
    """A text that is being written, for one reader and one writer on one event loop, whose clock is the only one.

    It is cut when it is read, a stretch at a time, so that neither messages of a few letters nor long ones hold the loop up.
    `speakers` says of the next pieces who speaks them, see `speaking.speakers_of`.
    """

    def __init__(
        self,
        pieces: PieceSettings,
        settings: ArrivalSettings,
        speakers: Callable[[Sequence[str]], tuple[str, ...]] = tuple,
    ) -> None:
        self.pieces: list[str] = []
        self._written = 0
        self._settings = settings
        self._unread = deque[str | None]()
        """Stretches of text, and a None where it was flushed."""
        self._cutter = Cutter(pieces)
        self._speakers = speakers
        self._ended = False
        self._fresh = False
        self._came = asyncio.Event()
        self._came_s = 0.0
        """When the last words came."""

    def write(self, text: str) -> None:
        """More of the text came. Raises `MotetError` (too_large) when it is too long, and (invalid) after its end."""
        most = self._settings.max_characters
        self._written += len(text)
        if self._ended:
            raise fail("invalid", "The text has ended.", "Open another session for another text.", code="text_ended")
        if self._written > most:
            raise fail(
                "too_large",
                f"The text has more than the {most:,} characters that this service takes at once.",
                "Begin another session for what follows.",
                param="text",
                code="string_above_max_length",
            )
        self._unread += (text[at : at + CUT_AT_ONCE] for at in range(0, len(text), CUT_AT_ONCE))
        self._fresh = self._fresh or bool(text)
        if has_words(text):  # spaces are no sign of a writer
            self._came_s = _now_s()
        self._came.set()

    def flush(self) -> None:
        """What was written is to be spoken now."""
        if not self._unread or self._unread[-1] is not None:
            self._unread.append(None)
        self._came.set()

    def end(self) -> None:
        """No more text comes."""
        self._ended = True
        self.flush()

    async def take(self, first: int, characters: float) -> tuple[str, ...]:
        """See `PieceSource`. Raises `MotetError` (timeout) when no more text came for too long."""
        asked_s = _now_s()
        while len(self.pieces) <= first:
            await self._read()
            if len(self.pieces) <= first:
                if self._ended:
                    return ()
                await self._next_text(asked_s)
        return group_of(self.pieces, first, characters)

    def ends_at(self, number: int) -> bool:
        """See `PieceSource`."""
        return self._ended and not self._unread and number >= len(self.pieces)

    async def _read(self) -> None:
        """Cuts what came, and lets others go on in between."""
        self._cut()
        while self._unread:
            stretch = self._unread.popleft()
            if stretch is None:
                self._cutter.flush()
            else:
                self._cutter.write(stretch)
            self._cut()
            await asyncio.sleep(0)

    def _cut(self) -> None:
        self.pieces += self._speakers(list(self._cutter.settled()))

    async def _next_text(self, asked_s: float) -> None:
        """Waits for more text; what is there when it pauses is spoken, up to its last whole word."""
        self._came.clear()
        until_s = self._came_s + self._settings.pause_s if self._fresh else self._idle_until_s(asked_s)
        try:
            async with asyncio.timeout_at(until_s):
                await self._came.wait()
        except TimeoutError:
            if not self._fresh:
                raise self._idle() from None
            self._fresh = False
            self._cutter.flush_words()

    def _idle_until_s(self, asked_s: float) -> float:
        """Time in which the model was still busy with what came before is not the writer's."""
        return max(self._came_s, asked_s) + self._settings.idle_s

    def _idle(self) -> Exception:
        return fail(
            "timeout",
            f"There was nothing to say for {self._settings.idle_s:g} s.",
            "Send text sooner, or input.done at its end.",
            code="session_idle",
        )


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def group_of(pieces: Sequence[str], first: int, characters: float) -> tuple[str, ...]:
    end, left = first, characters
    while end < len(pieces) and (end == first or len(pieces[end]) <= left):
        left -= len(pieces[end])
        end += 1
    return tuple(pieces[first:end])
