"""Texts in pieces: whole ones, and ones that are still being written."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from deployments.errors import fail
from deployments.settings import ArrivalSettings
from deployments.text.phonemes import without_pronunciations
from deployments.text.piece import Piece, as_written
from deployments.text.segmentation import Cutter, has_words
from deployments.text.speakers import without_marks

CUT_AT_ONCE = 64
"""Characters that are cut without a break. Any text of this length takes at most about a millisecond."""


class PieceSource(Protocol):
    """A text in pieces. They are numbered from 0, and each can be taken more than once."""

    @property
    def pieces(self) -> Sequence[Piece]:
        """All pieces so far."""

    async def take(self, first: int, characters: float) -> tuple[Piece, ...]:
        """The next pieces from number `first` on, at most `characters` long together, but at least one. Waits for that
        one. Empty at the end of the text."""

    def ends_at(self, number: int) -> bool:
        """Whether the text is known to have no piece with that number."""


class WholeText:
    """A text of which every piece is known."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = pieces

    async def take(self, first: int, characters: float) -> tuple[Piece, ...]:
        """See `PieceSource`. Does not wait."""
        return group_of(self.pieces, first, characters)

    def ends_at(self, number: int) -> bool:
        """See `PieceSource`."""
        return number >= len(self.pieces)


class ForOneVoice:
    """A text for one voice of another model that reads all of it. See `for_one_voice`."""

    def __init__(self, text: PieceSource, *, script: bool, phonemes: bool) -> None:
        self._text = text
        self._script = script
        self._phonemes = phonemes

    @property
    def pieces(self) -> Sequence[Piece]:
        """See `PieceSource`."""
        return tuple(for_one_voice(piece, script=self._script, phonemes=self._phonemes) for piece in self._text.pieces)

    async def take(self, first: int, characters: float) -> tuple[Piece, ...]:
        """See `PieceSource`."""
        taken = await self._text.take(first, characters)
        return tuple(for_one_voice(piece, script=self._script, phonemes=self._phonemes) for piece in taken)

    def ends_at(self, number: int) -> bool:
        """See `PieceSource`."""
        return self._text.ends_at(number)


class ArrivingText:
    """A text that is being written, for one reader and one writer on one event loop.

    It is cut when it is read, a few characters at a time, so that neither many short messages nor long ones block the loop.
    `prepare` makes the next pieces of what was cut (`tasks/piece_preparation.py`). A `patient` text waits for its writer
    however long that takes: the writer has time limits of its own.
    """

    def __init__(
        self,
        cutter: Cutter,
        settings: ArrivalSettings,
        prepare: Callable[[Sequence[str]], tuple[Piece, ...]] = as_written,
        *,
        patient: bool = False,
    ) -> None:
        self.pieces: list[Piece] = []
        self._patient = patient
        self._written = 0
        self._settings = settings
        self._unread = deque[str | tuple[Piece, ...] | None]()
        """Parts of the text that are not cut yet, pieces of documents, and a None for each flush."""
        self._cutter = cutter
        self._prepare = prepare
        self._ended = False
        self._fresh = False
        self._came = asyncio.Event()
        self._came_s = 0.0
        """When the latest words came, on the event loop's clock."""

    def write(self, text: str) -> None:
        """Appends to the text. Raises `MotetError`: (too_large) when it is too long, (invalid) after its end."""
        self._count(text)
        self._unread += (text[at : at + CUT_AT_ONCE] for at in range(0, len(text), CUT_AT_ONCE))
        self._fresh = self._fresh or bool(text)
        self._came.set()

    def write_pieces(self, document: str, pieces: Sequence[Piece]) -> None:
        """Appends the pieces of a document, after all text so far. Raises as `write` does."""
        self._count(document)
        self.flush()
        self._unread.append(tuple(pieces))
        self._came.set()

    def _count(self, text: str) -> None:
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
        if has_words(text):  # spaces alone do not show that somebody writes
            self._came_s = _now_s()

    def flush(self) -> None:
        """Lets the text so far be spoken now."""
        if not self._unread or self._unread[-1] is not None:
            self._unread.append(None)
        self._came.set()

    def end(self) -> None:
        """Ends the text."""
        self._ended = True
        self.flush()

    async def take(self, first: int, characters: float) -> tuple[Piece, ...]:
        """See `PieceSource`. Raises `MotetError` (timeout) when no more text comes for `idle_s`, unless it is patient."""
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
        """Cuts what came, and lets other tasks run in between."""
        self._cut()
        while self._unread:
            part = self._unread.popleft()
            if isinstance(part, tuple):
                self.pieces += part
            elif part is None:
                self._cutter.flush()
            else:
                self._cutter.write(part)
            self._cut()
            await asyncio.sleep(0)

    def _cut(self) -> None:
        self.pieces += self._prepare(list(self._cutter.settled()))

    async def _next_text(self, asked_s: float) -> None:
        """Waits for more text. When the writer pauses, the text so far is spoken up to its last whole word."""
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

    def _idle_until_s(self, asked_s: float) -> float | None:
        """The end of the writer's time, which begins when the model has spoken everything before. None: it has no end."""
        return None if self._patient else max(self._came_s, asked_s) + self._settings.idle_s

    def _idle(self) -> Exception:
        return fail(
            "timeout",
            f"The session received no text for {self._settings.idle_s:g} s.",
            "Send text sooner, or input.done at its end.",
            code="session_idle",
        )


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def for_one_voice(piece: Piece, *, script: bool, phonemes: bool) -> Piece:
    """A piece that names no voice. If it is of a `script` it has no speakers' marks, and for a model that does not read
    `phonemes` no pronunciations."""
    text, spoken = without_marks((piece.text, piece.spoken)) if script else (piece.text, piece.spoken)
    spoken = spoken if phonemes else without_pronunciations(spoken)
    return replace(piece, text=text, spoken=spoken, voice=None)


def group_of(pieces: Sequence[Piece], first: int, characters: float) -> tuple[Piece, ...]:
    """The longest run of pieces from number `first` on of which at most `characters` are spoken, but at least one piece."""
    end, left = first, characters
    while end < len(pieces) and (end == first or len(pieces[end].spoken) <= left):
        left -= len(pieces[end].spoken)
        end += 1
    return tuple(pieces[first:end])
