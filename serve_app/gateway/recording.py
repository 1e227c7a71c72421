"""Recordings on their way through the service, for every task: an audio helper cuts, and placements of a model do the rest.

Windows and chunks go by object reference: the gateway hands the answer of one deployment to the next and never holds the
samples of the recording. A window that fails is sent once more here (`RecordingSession.answer`), a chunk in `separation.py`,
where its join shows the failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from cluster.ray_private import by_reference
from deployments.errors import Failure, MotetError, fail, in_one_line
from deployments.replica.chunker import Cut, CuttingTask
from deployments.settings import RecordingSettings
from deployments.tracing.calls import outgoing
from deployments.tracing.spans import within
from serve_app.gateway.jobs.context import JOB, LATE_S
from serve_app.gateway.routing.admission import Ticket
from serve_app.gateway.routing.directory import ModelDirectory, refusal_of, value_of
from serve_app.gateway.routing.placement import LOST, NoAnswer, PlacedModel

Part = TypeVar("Part")

ATTEMPTS = 2
"""What fails is sent once more, to another placement if there is one."""
KEEPS = 3
"""Signs of life within `session_idle_s` while the gateway waits for a model."""

WORTH_A_RETRY = ("engine", "unavailable", "overloaded")
"""Failures of a replica that another replica may not have."""

_END = object()


@dataclass(slots=True, eq=False)
class ItemInFlight:
    """A window or chunk that a placement works on by its `method`. `payload` and `answer` are references; `payload` is
    fetched only after a failure."""

    ticket: Any
    payload: Any
    method: str
    placement: PlacedModel
    answer: Any
    counted: ExitStack
    sent_at_s: float
    place_in_line: int
    answered: bool = False

    def leave(self) -> None:
        """The placement no longer counts it. Safe to call twice."""
        self.counted.close()

    def cancel(self) -> None:
        """Gives it up."""
        self.answer.cancel()
        self.leave()

    def send(self, placement: PlacedModel) -> None:
        """Sends it to a placement. Parts of jobs come after those of requests."""
        self.placement, self.answered = placement, False
        self.sent_at_s, self.place_in_line = time.monotonic(), placement.under_way + 1
        self.counted.enter_context(placement.request())
        method = getattr(by_reference(placement.handle), self.method)
        late = (LATE_S,) if JOB.get() is not None else ()
        trace = self.counted.enter_context(outgoing(self.method, placement.name))
        self.answer = method.remote(self.payload, self.ticket.index, *late, **trace)


class Recordings:
    """The audio helpers, and the recordings that are open at them."""

    def __init__(self, helpers: Sequence[DeploymentHandle[Any]], settings: RecordingSettings) -> None:
        self._helpers = helpers
        self._turns = itertools.cycle(range(len(helpers)))
        self._settings = settings
        self._sessions: set[RecordingSession] = set()

    def width(self, most: int) -> int:
        """How many windows or chunks of one recording may be under way now: at most `most`, and a share equal to that of
        others that have some. Recordings that wait for their clients have none. A job has one beside others that are not
        jobs."""
        if JOB.get() is not None and any(session.busy and not session.of_job for session in self._sessions):
            return 1
        sharing = sum(session.busy for session in self._sessions)
        return max(1, min(most, self._settings.max_in_flight // max(1, sharing)))

    @asynccontextmanager
    async def session(
        self,
        upload: AsyncIterable[bytes],
        task: CuttingTask,
        cut_settings: Any,
        directory: ModelDirectory,
        ticket: Ticket,
        model: str,
    ) -> AsyncIterator[RecordingSession]:
        """A recording that is being uploaded, for `model`. Raises `MotetError`, also for what went wrong with the upload.

        `ticket` is the recording's place in the queue, which is closed at the end.
        """
        feeding: asyncio.Task[None] | None = None
        session: RecordingSession | None = None
        try:
            session = await self._opened(task, cut_settings, directory, ticket, model)
            self._sessions.add(session)
            feeding = asyncio.create_task(session.feed(upload))
            feeding.add_done_callback(_seen)
            yield session
            await feeding
            ticket.complete()
        except MotetError:
            if session is not None and session.upload_error is not None:
                raise session.upload_error from None  # it is the cause of the other
            raise
        except LOST as error:
            raise refusal_of(model, error) or _interrupted(error) from error
        finally:
            if feeding is not None:
                feeding.cancel()
            if session is not None:
                self._sessions.discard(session)
                session.close()
            ticket.close()

    async def _opened(
        self, task: CuttingTask, cut_settings: Any, directory: ModelDirectory, ticket: Ticket, model: str
    ) -> RecordingSession:
        """A session at the first helper that lives and has room, the next one in turn before the others."""
        first, keep_every_s = next(self._turns), self._settings.session_idle_s / KEEPS
        refused: list[Failure] = []
        lost: Exception | None = None
        for helper in [*self._helpers[first:], *self._helpers[:first]]:
            session = RecordingSession(helper, directory, ticket, model, keep_every_s)
            try:
                refusal = await session.open(task, cut_settings)
            except LOST as error:
                lost = error
                continue
            if refusal is None:
                return session
            if refusal.kind != "overloaded":
                raise MotetError(refusal)
            refused.append(refusal)
        if lost is not None and not refused:
            raise lost
        raise MotetError(replace(refused[0], retry_after_s=ticket.give_up()))


class RecordingSession:
    """One recording at an audio helper."""

    def __init__(
        self,
        helper: DeploymentHandle[Any],
        directory: ModelDirectory,
        ticket: Ticket,
        model: str,
        keep_every_s: float,
    ) -> None:
        self._name = uuid.uuid4().hex
        self._helper = helper
        self._directory = directory
        self._ticket = ticket
        self._model = model
        self._keep_every_s = keep_every_s
        self._under_way: set[ItemInFlight] = set()
        self.of_job = JOB.get() is not None
        self.upload_error: Exception | None = None
        """What went wrong with the upload, kept before the helper is asked to close."""
        self.answered_by = ""
        """The placement that gave the latest answer."""

    @property
    def busy(self) -> bool:
        """Whether a placement works on something of the recording."""
        return bool(self._under_way)

    @property
    def begun(self) -> bool:
        """Whether a placement has answered: then the recording waits for a restart."""
        return bool(self.answered_by)

    async def open(self, task: CuttingTask, cut_settings: Any) -> Failure | None:
        """Starts the session, or says why not. Until something was cut, the recording waits for its client and not for the
        model."""
        self._ticket.stop_waiting()
        opening: asyncio.Future[Failure | None] = asyncio.ensure_future(
            self._helper.open.remote(self._name, task, cut_settings)
        )
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(lambda _: self.close())  # not before the helper has opened it
            raise

    async def feed(self, upload: AsyncIterable[bytes]) -> None:
        """Sends the recording to the helper, as fast as it takes it."""
        try:
            async for block in upload:
                value_of(await self._helper.feed.remote(self._name, block, False))
            value_of(await self._helper.feed.remote(self._name, b"", True))
        except Exception as error:
            self.upload_error = None if isinstance(error, LOST) else error
            await self._helper.close.remote(self._name)  # wakes a decoder that waits for more
            raise

    def close(self) -> None:
        """Ends the session without waiting for it."""
        with contextlib.suppress(Exception):
            self._helper.close.remote(self._name)

    async def take(self) -> Cut | None:
        """The next ticket; None after the last."""
        with within("cut"):
            cut: Cut | None = value_of(await self._helper.next.remote(self._name))
        if self._model in self._directory.models:  # what is only cut needs no model
            await self._directory.refresh(self._model)
        return cut

    def send(self, ticket: Any, method: str) -> ItemInFlight:
        """Sends a window or chunk to the placement that is expected to answer first."""
        payload = by_reference(self._helper).fetch.remote(self._name, ticket.index)
        placement = self._directory.choose(self._model)
        item = ItemInFlight(ticket, payload, method, placement, None, ExitStack(), 0.0, 0)
        self._send(item, placement)
        return item

    def skip(self, ticket: Any) -> None:
        """Drops a window or chunk that no placement is asked for, without waiting."""
        self._helper.drop.remote(self._name, ticket.index)

    def send_again(self, item: ItemInFlight) -> None:
        """Sends it to another placement, or to the same one if there is no other."""
        item.cancel()
        self._send(item, self._directory.choose(self._model, besides=item.placement))

    def _send(self, item: ItemInFlight, placement: PlacedModel) -> None:
        item.send(placement)
        self._under_way.add(item)
        item.counted.callback(self._under_way.discard, item)
        self._ticket.start_waiting()

    async def answer(self, item: ItemInFlight) -> Any:
        """What the placement answers. If it fails, the item is sent once more. Raises `MotetError` and what Ray raises."""
        for attempt in range(ATTEMPTS):
            last = attempt + 1 == ATTEMPTS
            try:
                answer = await item.placement.while_alive(item.answer, last=last, begun=self.begun, again=not last)
            except LOST as error:
                await self._blame(item, error)
                if last:
                    raise
            else:
                if not isinstance(answer, Failure):
                    self.note_answer(item)
                    return answer
                if last or answer.kind not in WORTH_A_RETRY:
                    raise MotetError(answer)
            self.send_again(item)
        raise AssertionError("the last attempt answers or raises")

    async def lost(self, item: ItemInFlight) -> bool:
        """Whether a placement failed to answer, or its answer went with the machine that held it. Fetches the answer, since
        Ray has no other way to see it."""
        try:
            await item.placement.while_alive(item.answer)
        except Exception as error:
            await self._blame(item, error)
            return True
        return False

    async def _blame(self, item: ItemInFlight, error: Exception) -> None:
        """Suspects a placement that did not answer, unless it is only busy. Raises what the helper raised: without the
        payload there is no other attempt."""
        if isinstance(error, BackPressureError):
            return
        if not isinstance(error, NoAnswer):  # a silent placement may still wait for the payload
            await item.payload
        item.placement.suspect()

    def note_answer(self, item: ItemInFlight) -> None:
        """Learns from an answer that came just now how fast a placement is. Counts once for each answer."""
        if not item.answered:
            item.answered = True
            item.leave()
            self.answered_by = item.placement.name
            item.placement.note_answer(item.sent_at_s, item.place_in_line)

    async def kept(
        self,
        parts: AsyncGenerator[Part],
        made: Callable[[Part], None],
        needed: Callable[[], bool] = lambda: False,
    ) -> AsyncGenerator[Part]:
        """The same parts, each given to `made`. The session is kept while one is awaited, because a busy model may take
        longer than an idle session lasts. A client that does not read is not kept, unless the next part is `needed` once
        another model has answered."""
        async with aclosing(parts):
            while True:
                async with self._keeping(lambda: True):
                    part: Any = await anext(parts, _END)
                if part is _END:
                    return
                made(part)
                if not self.busy:
                    self._ticket.stop_waiting()
                async with self._keeping(needed):
                    yield part

    @asynccontextmanager
    async def _keeping(self, needed: Callable[[], bool]) -> AsyncIterator[None]:
        """Keeps the session as long as it is needed."""
        keeping = asyncio.create_task(self._keep(needed))
        try:
            yield
        finally:
            keeping.cancel()

    async def _keep(self, needed: Callable[[], bool]) -> None:
        while True:
            await asyncio.sleep(self._keep_every_s)
            if needed():
                with contextlib.suppress(*LOST):  # a helper that is gone shows at the next window
                    await self._helper.keep.remote(self._name)


def _seen(feeding: asyncio.Task[None]) -> None:
    """Counts its error as seen, which asyncio else logs: the session keeps that, and raises it first."""
    if not feeding.cancelled():
        feeding.exception()


def _interrupted(error: Exception) -> MotetError:
    return fail(
        "unavailable",
        "A part of the service went away while the recording was in progress.",
        "Send the file again in a moment.",
        code="recording_interrupted",
        detail=in_one_line(error),
    )
