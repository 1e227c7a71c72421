"""One model on one hardware class, as the gateway sees it: its replicas' state, and calls to them.

Ray Serve's router never reports that a deployment has no replica: it keeps a request until there is one again. Therefore, if
a placement does not answer within `silent_s`, the gateway sends it a health check. Until the check returns, requests go to
the model's other placements. The check stays in Ray Serve's router, and the first replica that is back answers it. If the
last placement of a model has replicas and none answers, requests for the model are refused with the time until Ray Serve
will have replaced them. If it has no replica, one is starting: a request waits for it if it is expected soon enough.

A placement whose number of replicas follows the load may have none. Any call that waits in Ray Serve's router starts one, so
the gateway checks such a placement without the router, and lets requests wait for it only while no other placement of the
model has a replica.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from grpc.aio import UsageError
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from cluster import ray_private
from cluster.placement_state import PlacementState
from deployments.errors import fail
from deployments.replica.base import ReplicaReport
from deployments.settings import HealthSettings, SpilloverSettings
from deployments.tracing.calls import outgoing

Answer = TypeVar("Answer")

LOST = (RayError, RayServeException, UsageError)
"""What Ray raises if a replica is gone or takes no more calls; gRPC's `UsageError` if Ray Serve just closed its channel."""

START_S = 5.0
"""From the loss of a replica to the process of its successor, without the time to load the model: until one was measured."""

MIN_RETRY_S = 2.0
"""`Retry-After` while a replacement takes longer than expected."""

RETURN_SPACING_S, RETURN_SPREAD_S = 0.25, 10.0
"""Requests that were refused meanwhile are told to come back one after another, over at most this long: all at once, they
would fill the queue of the replica that returns."""

CHECK_AFTER_S = 1.0
"""How long the state of a placement is trusted if its last replica may be removed for lack of load."""

_END = object()


class NoAnswer(RayServeException):
    """No replica of a placement answers."""


class SilentReplica(NoAnswer):
    """A replica of a placement does not answer, and others of it do."""


class FrozenReplicas(NoAnswer):
    """A placement has replicas, and none of them answers."""


class PlacedModel(PlacementState):
    """One model on one hardware class, and calls to it. It belongs to one event loop."""

    def __init__(
        self,
        model: str,
        kind: str,
        handle: DeploymentHandle[Any],
        spillover: SpilloverSettings,
        health: HealthSettings,
        *,
        elastic: bool = False,
        silent: Callable[[], Awaitable[bool]] | None = None,
        cost: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`silent` says whether some replicas do not answer while others do, for a placement that may have several."""
        super().__init__(model, kind, elastic=elastic, cost=cost, clock=clock)
        self.handle = handle
        self._streaming = handle.options(stream=True)
        self._spillover = spillover
        self._check: asyncio.Task[None] | None = None
        self._checked_s = -math.inf
        self.absence = Absence(model, health, spillover.restart_wait_s, clock)
        self._absence_check: asyncio.Task[None] | None = None
        self._some_are_silent = silent

    async def refresh(self) -> None:
        """Notices that the last replica of an elastic placement was removed for lack of load."""
        if self.elastic and self.alive and self._clock() - self._checked_s >= CHECK_AFTER_S:
            self._checked_s = self._clock()
            try:
                await self._first_report()
            except NoAnswer:
                pass  # it has replicas, and they are busy
            except DeploymentUnavailableError:
                self.suspect()

    async def call(self, method: str, *arguments: Any, last: bool, begun: bool = False) -> Any:
        """One answer. Raises `NoAnswer` if no replica answers; if this is the `last` placement to try, waits for one. A call
        for which nobody waits any more is cancelled, also one that is still in Ray Serve's router. If a replica is silent
        and others are not, it is sent once more."""
        try:
            return await self._call(method, *arguments, last=last, begun=begun, again=True)
        except SilentReplica:
            return await self._call(method, *arguments, last=last, begun=begun, again=False)

    async def _call(self, method: str, *arguments: Any, last: bool, begun: bool, again: bool) -> Any:
        if last:
            self.absence.ensure_short(begun=begun)
        asked_s = self._clock()
        with self.request(), self._suspected(), outgoing(method, self.name) as trace:
            response = getattr(self.handle, method).remote(*arguments, **trace)
            try:
                answer = await self.while_alive(response, last=last, begun=begun, again=again)
            except (asyncio.CancelledError, NoAnswer):
                response.cancel()
                raise
            self.note_life(asked_s)
            return answer

    async def call_replica(self, replica: str, method: str, *arguments: Any) -> Any:
        """One answer of the replica with this id, however long it takes, as long as that replica lives. Raises one of `LOST`
        if it is gone, or frozen."""
        with self.request(), self._suspected(), outgoing(method, self.name) as trace:
            answer = asyncio.ensure_future(self._ask(replica, method, *arguments, **trace))
            try:
                while not await _done(answer, self._spillover.silent_s):
                    await self._ensure_lives(replica)
                return answer.result()
            finally:
                answer.add_done_callback(_retrieve)
                answer.cancel()

    async def _ensure_lives(self, replica: str) -> None:
        try:
            async with asyncio.timeout(self._spillover.life_sign_s):
                await self._ask(replica, "report")
        except TimeoutError as error:
            raise ReplicaUnavailableError(replica) from error

    def _ask(self, replica: str, method: str, *arguments: Any, **named: Any) -> Coroutine[Any, Any, Any]:
        return ray_private.answer_of_replica(self.handle, replica, method, *arguments, **named)

    async def tell_replicas(self, method: str, *arguments: Any, timeout_s: float) -> bool:
        """Calls a method of every replica. Whether all that live have answered in time."""
        try:
            async with asyncio.timeout(timeout_s):
                pending = await ray_private.replica_answers(self.handle, method, *arguments)
                answers = await asyncio.gather(*(each.get_async() for each in pending), return_exceptions=True)
        except DeploymentUnavailableError:  # it has no replica
            return True
        except TimeoutError:
            return False
        return not any(isinstance(each, Exception) and not isinstance(each, RayActorError) for each in answers)

    async def report(self) -> Any:
        """A replica's report. Raises `NoAnswer`, at once if it is known that none answers."""
        if not self.alive:
            raise NoAnswer(f"No replica of {self.name} answers.")
        if not self.elastic:
            return self._note(await self.call("report", last=False))
        with self._suspected():
            return await self._first_report()

    async def stream(self, method: str, *arguments: Any, last: bool, begun: bool = False) -> AsyncGenerator[Any]:
        """Streams a method's answers, and cancels the call when the caller stops reading, for whatever reason.

        Before the first answer it raises `NoAnswer`, and is sent once more, as `call` is.
        """
        if last:
            self.absence.ensure_short(begun=begun)
        asked_s, place_in_line = self._clock(), self.under_way + 1
        ended = False
        with self.request(), self._suspected(), outgoing(method, self.name) as trace:
            answers = getattr(self._streaming, method).remote(*arguments, **trace)
            try:
                try:
                    answer = await self.while_alive(_next(aiter(answers)), last=last, begun=begun, again=True)
                except SilentReplica:
                    answers.cancel()
                    answers = getattr(self._streaming, method).remote(*arguments, **trace)
                    answer = await self.while_alive(_next(aiter(answers)), last=last, begun=begun)
                self.note_answer(asked_s, place_in_line)
                items: AsyncIterator[Any] = aiter(answers)
                while answer is not _END:
                    yield answer
                    answer = await _next(items)
                ended = True
            finally:
                if not ended:
                    answers.cancel()

    async def while_alive(
        self, answer: Awaitable[Answer], *, last: bool = False, begun: bool = False, again: bool = False
    ) -> Answer:
        """The answer, however long it takes, as long as a replica is alive. Raises `NoAnswer`; for the `last` placement of a
        model only `MotetError` (unavailable) if it takes too long until a replica answers again. A request that has `begun`,
        so that its client has a part of the answer, waits for a restart however long that takes. One that can be sent
        `again` gets `SilentReplica` if a replica does not answer and others do: nobody knows which one has it."""
        awaited, now = asyncio.ensure_future(answer), asyncio.get_running_loop().time
        began_s = now()
        patience_s = self._spillover.wake_s if self.sleeps else self._spillover.silent_s
        try:
            while not await _done(awaited, patience_s):
                if again and self._some_are_silent and await self._some_are_silent() and not awaited.done():
                    raise SilentReplica(f"A replica of {self.name} does not answer.")
                check = self._start_check()
                if await _done(awaited, self._spillover.life_sign_s, check) or check.done():
                    continue
                self.alive = False
                if not last:
                    raise NoAnswer(f"No replica of {self.name} answers.")
                if not await _done(awaited, None, self._start_absence_check()):
                    self.absence.ensure_short(now() - began_s, begun=begun)
            return awaited.result()
        finally:
            awaited.add_done_callback(_retrieve)
            awaited.cancel()

    def _start_absence_check(self) -> asyncio.Task[None]:
        if self._absence_check is None or self._absence_check.done():
            silent_since_s = self._clock() - self._spillover.silent_s - self._spillover.life_sign_s
            self._absence_check = asyncio.create_task(self._check_absence(silent_since_s))
        return self._absence_check

    async def _check_absence(self, silent_since_s: float) -> None:
        try:
            await self._first_report(self._spillover.last_life_sign_s)
        except FrozenReplicas:
            if not self.alive:
                self.absence.begin(silent_since_s, frozen=True)
        except LOST:  # there are no replicas, or they ended just now: others are starting
            if not self.alive and not self.elastic:
                self.absence.begin(max(silent_since_s, self._suspected_s), frozen=False)
        else:
            self.recover()

    async def back_in_s(self) -> float:
        """In how many seconds a replica is expected to answer, after the last one was lost; 0 or less if one answers."""
        if not self.alive:
            await asyncio.shield(self._start_absence_check())
        return self.absence.left_s

    def suspect(self) -> None:
        """A replica is lost: requests go to other placements until one answers."""
        super().suspect()
        self._start_check()

    def recover(self) -> None:
        """See `PlacementState`."""
        super().recover()
        self.absence.end()

    @contextmanager
    def _suspected(self) -> Iterator[None]:
        try:
            yield
        except SilentReplica:
            raise  # its siblings answer
        except (RayActorError, UsageError, NoAnswer, DeploymentUnavailableError):
            self.suspect()
            raise

    def _start_check(self) -> asyncio.Task[None]:
        """The health check that is under way, or a new one. It ends when a replica answers."""
        if self._check is None or self._check.done():
            self._check = asyncio.create_task(self._until_alive())
        return self._check

    async def _until_alive(self) -> None:
        while True:
            try:
                self._note(await (self._first_report() if self.elastic else self.handle.report.remote()))
                break
            except LOST:
                await asyncio.sleep(self._spillover.ask_again_s)
        if not self.alive:
            self.recover()

    async def _first_report(self, timeout_s: float | None = None) -> Any:
        """The first report of any replica, without the router. Raises `NoAnswer`, `FrozenReplicas` if there are replicas and
        none answers in time, and Ray Serve's `DeploymentUnavailableError`."""
        answers = [
            asyncio.ensure_future(each.get_async()) for each in await ray_private.replica_answers(self.handle, "report")
        ]
        try:
            async with asyncio.timeout(timeout_s or self._spillover.life_sign_s):
                for answer in asyncio.as_completed(answers):
                    with suppress(*LOST):
                        return self._note(await answer)
        except TimeoutError as error:
            raise FrozenReplicas(f"No replica of {self.name} answers.") from error
        finally:
            for each in answers:
                each.add_done_callback(_retrieve)
                each.cancel()
        raise NoAnswer(f"No replica of {self.name} answers.")

    def _note(self, report: Any) -> Any:
        """Remembers how long a replica takes to load."""
        if isinstance(report, ReplicaReport):
            self.absence.note_load(report.load_seconds + report.warm_up_seconds)
        return report


class Absence:
    """The time in which no replica of a placement answers: they are frozen until Ray Serve replaces them, or they are gone
    and others are starting. `clock` is monotonic, in seconds."""

    def __init__(self, model: str, health: HealthSettings, restart_wait_s: float, clock: Callable[[], float]) -> None:
        self._model = model
        self._health = health
        self._restart_wait_s = restart_wait_s
        self._clock = clock
        self._since_s: float | None = None
        self._load_s = 0.0
        self._restart_s: float | None = None
        self._refused = 0
        self.frozen = False
        """Whether it has replicas and none of them answers."""

    @property
    def lasts(self) -> bool:
        """Whether no replica is known to answer."""
        return self._since_s is not None

    def note_load(self, seconds: float) -> None:
        """A replica took this long to load."""
        self._load_s = seconds

    def begin(self, since_s: float, *, frozen: bool) -> None:
        """No replica has answered since then. Replicas that were frozen may be gone by now, and not the other way round."""
        if self._since_s is None or (self.frozen and not frozen):
            self._since_s, self.frozen = since_s, frozen

    def end(self) -> None:
        """A replica answers. How long its start took predicts the next one."""
        if self._since_s is not None and not self.frozen:
            self._restart_s = self._clock() - self._since_s
        self._since_s, self.frozen, self._refused = None, False, 0

    @property
    def left_s(self) -> float:
        """In how many seconds a replica is expected to answer; 0 or less if it should do so already."""
        if self._since_s is None:
            return 0.0
        notice_s = self._health.noticed_within_s if self.frozen else 0.0
        restart_s = START_S + self._load_s if self._restart_s is None else self._restart_s
        return self._since_s + notice_s + restart_s - self._clock()

    def ensure_short(self, waited_s: float = 0.0, *, begun: bool = False) -> None:
        """Raises `MotetError` (unavailable), with the time until a replica is expected, for a request that has waited for
        `waited_s` and would wait for too long: always if the replicas are frozen, and otherwise never if it has `begun`."""
        if self._since_s is None or (begun and not self.frozen):
            return
        if not self.frozen and waited_s < self._restart_wait_s and waited_s + self.left_s <= self._restart_wait_s:
            return
        retry_after_s = max(MIN_RETRY_S, self.left_s) + self._next_turn_s()
        raise fail(
            "unavailable",
            f"The model {self._model!r} does not answer and is being restarted.",
            f"Try again in {math.ceil(retry_after_s)} s.",
            code="model_restarting",
            retry_after_s=retry_after_s,
            detail=f"it has been silent for {self._clock() - self._since_s:.1f} s",
        )

    def _next_turn_s(self) -> float:
        """How long after the start the next refused request may come back."""
        turn_s = self._refused * RETURN_SPACING_S % RETURN_SPREAD_S
        self._refused += 1
        return turn_s


def _retrieve(awaited: asyncio.Future[Any]) -> None:
    # asyncio logs exceptions that are never retrieved.
    if not awaited.cancelled():
        awaited.exception()


async def _next(items: AsyncIterator[Any]) -> Any:
    return await anext(items, _END)


async def _done(wanted: asyncio.Future[Any], timeout_s: float | None, *others: asyncio.Future[Any]) -> bool:
    """Waits until `wanted` or one of the others is done or the time is over; whether `wanted` is done."""
    await asyncio.wait({wanted, *others}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    return wanted.done()
