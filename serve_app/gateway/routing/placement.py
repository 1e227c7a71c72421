"""Which placement of a model takes a request: the one expected to answer first; and what happens when one is gone.

Ray Serve's router never says that a deployment has no replica: it keeps a request until there is one again. So a placement
that stays silent is asked whether it lives, beside the request, and while it does not answer that its requests go to the
model's other placements. The question stays open in Ray Serve's router, and is answered by the first replica that is back.
If the last placement of a model has replicas and none answers, the model's requests are refused until one does, with the
time until Ray Serve will have replaced them. If it has none, one is starting, and requests wait for it.

A placement whose number of replicas follows the load may have none. Whatever waits in Ray Serve's router for such a one wakes
it, so it is asked beside the router, and requests wait for it only when no other placement of the model lives.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TypeVar

from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from cluster.demand import AutoscalingSettings
from cluster.models import Model, Placement
from deployments.errors import Failure, MotetError, fail, in_one_line, quoted
from deployments.replica.base import ReplicaReport
from deployments.settings import HealthSettings
from serve_app.config import AppConfig
from serve_app.gateway.settings import SpilloverSettings

Answer = TypeVar("Answer")

TROUBLE = (RayError, RayServeException)
"""What Ray raises when a replica is gone, or takes no more."""

SMOOTHING = 0.2
"""Weight of the newest time to first answer in its running mean."""

START_S = 5.0
"""From the end of a frozen replica to the process of its successor. The time to load the model comes on top."""

LEAST_RETRY_S = 2.0
"""Told to a client while a replacement takes longer than expected."""

LOOK_AGAIN_S = 1.0
"""How old may be what is known of a placement that can lose its last replica for want of work."""

_END = object()


class Placed(Protocol):
    """Whatever remembers where a request is answered: the placement to begin with, and then the one that answered."""

    placement: str


class NoReplica(RayServeException):
    """No replica of a placement answers."""


class Silent(NoReplica):
    """A placement has replicas, and none of them answers."""


DEFAULT_HEALTH = HealthSettings()


class PlacedModel:
    """One model on one hardware class, as seen from the gateway."""

    def __init__(
        self,
        model: str,
        kind: str,
        handle: DeploymentHandle[Any],
        spillover: SpilloverSettings,
        clock: Callable[[], float] = time.monotonic,
        autoscaling: AutoscalingSettings | None = None,
        health: HealthSettings = DEFAULT_HEALTH,
    ) -> None:
        self.name = f"{model}@{kind}"
        self.model = model
        self.kind = kind
        self.elastic = autoscaling is not None and autoscaling.min_replicas == 0
        self.cost = autoscaling.cost if autoscaling else 0.0
        self.handle = handle
        self.under_way = 0
        self.alive = True
        self.first_answer_seconds: float | None = None
        self._streaming = handle.options(stream=True)
        self._spillover = spillover
        self._clock = clock
        self._question: asyncio.Task[None] | None = None
        self._looked_s = -math.inf
        self._doubted_s = -math.inf
        self._health = health
        self._load_s = 0.0
        self._frozen_since_s: float | None = None
        self._frozen_look: asyncio.Task[None] | None = None

    @property
    def sleeps(self) -> bool:
        """Whether it has no replicas, and gets some when it is asked."""
        return self.elastic and not self.alive

    async def look(self) -> None:
        """Notices, soon enough, that the last replica was taken away for want of work."""
        if self.elastic and self.alive and self._clock() - self._looked_s >= LOOK_AGAIN_S:
            self._looked_s = self._clock()
            try:
                await self._heard()
            except NoReplica:
                pass  # it has some, and they are busy
            except DeploymentUnavailableError:
                self.doubt()

    def expected_seconds(self, typical: float) -> float:
        """Expected time to the first answer: what each request took of it lately, for everyone ahead and for this one.

        A placement that has not answered yet is taken to be as fast as a `typical` one.
        """
        own = typical if self.first_answer_seconds is None else self.first_answer_seconds
        return own * (self.under_way + 1)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Counts a request as under way."""
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    async def call(self, method: str, *arguments: Any, alone: bool) -> Any:
        """One answer. Raises `NoReplica` when no replica lives, unless this placement is the only one left."""
        if alone:
            self.ensure_not_frozen()
        asked_s = self._clock()
        with self.request(), self._doubted():
            answer = await self.while_alive(getattr(self.handle, method).remote(*arguments), last=alone)
            self._answered(asked_s)
            return answer

    async def report(self) -> Any:
        """How a replica came up and what it takes. Raises `NoReplica`, at once where that is known already."""
        if not self.alive:
            raise NoReplica(f"No replica of {self.name} answers.")
        if not self.elastic:
            return self._note(await self.call("report", alone=False))
        with self._doubted():
            return await self._heard()

    async def stream(self, method: str, *arguments: Any, alone: bool) -> AsyncGenerator[Any]:
        """Streams a method's answers. The stream is cancelled when the caller stops reading, for whatever reason.

        Raises `NoReplica` before the first answer as `call` does.
        """
        if alone:
            self.ensure_not_frozen()
        asked_s, place_in_line = self._clock(), self.under_way + 1
        answers = getattr(self._streaming, method).remote(*arguments)
        items: AsyncIterator[Any] = aiter(answers)
        ended = False
        with self.request(), self._doubted():
            try:
                answer = await self.while_alive(_next(items), last=alone)
                self.note_answer(asked_s, place_in_line)
                while answer is not _END:
                    yield answer
                    answer = await _next(items)
                ended = True
            finally:
                if not ended:
                    answers.cancel()

    async def while_alive(self, answer: Awaitable[Answer], *, last: bool = False) -> Answer:
        """The answer, however long it takes, as long as a replica lives. Raises `NoReplica`; for the `last` placement of a
        model only a `MotetError` (unavailable), when its replicas are frozen: one without replicas is waited for."""
        awaited = asyncio.ensure_future(answer)
        patience_s = self._spillover.wake_s if self.sleeps else self._spillover.silent_s
        try:
            while not await _done(awaited, patience_s):
                question = self._ask()
                if await _done(awaited, self._spillover.life_sign_s, question) or question.done():
                    continue
                self.alive = False
                if not last:
                    raise NoReplica(f"No replica of {self.name} answers.")
                if not await _done(awaited, None, self._look_for_frozen()):
                    self.ensure_not_frozen()
            return awaited.result()
        finally:
            awaited.add_done_callback(_settle)
            awaited.cancel()

    def _look_for_frozen(self) -> asyncio.Task[None]:
        """Whether there are replicas and all are silent; one look at a time."""
        if self._frozen_look is None or self._frozen_look.done():
            silent_since_s = self._clock() - self._spillover.silent_s - self._spillover.life_sign_s
            self._frozen_look = asyncio.create_task(self._note_frozen(silent_since_s))
        return self._frozen_look

    async def _note_frozen(self, silent_since_s: float) -> None:
        try:
            await self._heard(self._spillover.last_life_sign_s)
        except Silent:
            if self._frozen_since_s is None and not self.alive:
                self._frozen_since_s = silent_since_s
        except TROUBLE:
            pass  # there are none, or they ended just now: others are starting
        else:
            self._came_back()

    @property
    def frozen(self) -> bool:
        """Whether it has replicas that do not answer anything."""
        return self._frozen_since_s is not None

    def ensure_not_frozen(self) -> None:
        """Raises `MotetError` (unavailable) with the time until frozen replicas will have been replaced."""
        if self._frozen_since_s is None:
            return
        replaced_s = self._frozen_since_s + self._health.noticed_within_s + START_S + self._load_s
        retry_after_s = max(LEAST_RETRY_S, replaced_s - self._clock())
        raise fail(
            "unavailable",
            f"The model {self.model!r} does not answer, and is being restarted.",
            f"Try again in {math.ceil(retry_after_s)} s.",
            code="model_restarting",
            retry_after_s=retry_after_s,
            detail=f"{self.name} has been silent for {self._clock() - self._frozen_since_s:.1f} s",
        )

    def doubt(self) -> None:
        """A replica is gone: others go elsewhere until one answers."""
        self.alive, self._doubted_s = False, self._clock()
        self._ask()

    def note_answer(self, asked_s: float, place_in_line: int) -> None:
        """Learns from a request's first answer: it was asked at `asked_s` (monotonic), as the `place_in_line`-th that was
        under way then."""
        if self.alive:
            self._learn((self._clock() - asked_s) / place_in_line)
        self._answered(asked_s)  # after it, since the time to wake up says nothing of the next answer

    def _answered(self, asked_s: float) -> None:
        """What was asked at `asked_s` was answered. When that was after the last doubt, a replica lives."""
        if not self.alive and asked_s >= self._doubted_s:
            self._came_back()

    def _came_back(self) -> None:
        self.alive, self.first_answer_seconds = True, None  # a new replica: what the old one took says nothing
        self._frozen_since_s = None

    @contextmanager
    def _doubted(self) -> Iterator[None]:
        """Raises what is raised inside, and doubts the placement when a replica was lost."""
        try:
            yield
        except (RayActorError, NoReplica, DeploymentUnavailableError):
            self.doubt()
            raise

    def _ask(self) -> asyncio.Task[None]:
        """Whether a replica lives; one question at a time. It is answered when one does."""
        if self._question is None or self._question.done():
            self._question = asyncio.create_task(self._until_it_lives())
        return self._question

    async def _until_it_lives(self) -> None:
        while True:
            try:
                self._note(await (self._heard() if self.elastic else self.handle.report.remote()))
                break
            except TROUBLE:
                await asyncio.sleep(self._spillover.ask_again_s)
        if not self.alive:
            self._came_back()

    async def _heard(self, timeout_s: float | None = None) -> Any:
        """A report of the replica that is first to give one, without waiting where there is none. Raises `NoReplica`, and
        `Silent` when there are some and none answered, or Ray Serve's `DeploymentUnavailableError`."""
        # Ray Serve's own `results_async` waits for all of them, the frozen ones too.
        asked: list[Any] = await self.handle.broadcast("report")._fetch_replica_results_async()
        answers = [asyncio.ensure_future(each.get_async()) for each in asked]
        try:
            async with asyncio.timeout(timeout_s or self._spillover.life_sign_s):
                for answer in asyncio.as_completed(answers):
                    with suppress(*TROUBLE):
                        return self._note(await answer)
        except TimeoutError as error:
            raise Silent(f"No replica of {self.name} answers.") from error
        finally:
            for each in answers:
                each.add_done_callback(_settle)
                each.cancel()
        raise NoReplica(f"No replica of {self.name} answers.")

    def _note(self, report: Any) -> Any:
        """The report, which tells how long a replica takes to load."""
        if isinstance(report, ReplicaReport):
            self._load_s = report.load_seconds + report.warm_up_seconds
        return report

    def _learn(self, seconds: float) -> None:
        known = self.first_answer_seconds
        self.first_answer_seconds = seconds if known is None else known + SMOOTHING * (seconds - known)


def _settle(awaited: asyncio.Future[Any]) -> None:
    """Nobody wants it any more, so nobody need be told how it went."""
    if not awaited.cancelled():
        awaited.exception()


async def _next(items: AsyncIterator[Any]) -> Any:
    return await anext(items, _END)


async def _done(wanted: asyncio.Future[Any], timeout_s: float | None, *others: asyncio.Future[Any]) -> bool:
    """Waits until `wanted` or one of the others is done, or the time is over; whether `wanted` is."""
    await asyncio.wait({wanted, *others}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    return wanted.done()


class ModelDirectory:
    """Every model by name and alias, with its placements."""

    def __init__(self, config: AppConfig, handles: Mapping[str, Mapping[str, DeploymentHandle[Any]]]) -> None:
        self.models: Mapping[str, Model] = config.models
        configured: dict[tuple[str, str], Placement] = {
            (name, placement.hardware.kind): placement
            for name, model in config.models.items()
            for placement in model.placements
        }
        self._aliases = {alias: name for name, model in config.models.items() for alias in model.aliases}
        self._placed = {
            name: [
                PlacedModel(
                    name,
                    kind,
                    handle,
                    config.spillover,
                    autoscaling=configured[name, kind].autoscaling,
                    health=configured[name, kind].health_check,
                )
                for kind, handle in kinds.items()
            ]
            for name, kinds in handles.items()
        }
        self._traits: dict[str, Any] = {}

    @property
    def aliases(self) -> Mapping[str, str]:
        """Alias to model name."""
        return self._aliases

    def resolve(self, wanted: str, task: str) -> str:
        """The model's own name. Raises `MotetError` when it does not exist or does something else."""
        name = self._aliases.get(wanted, wanted)
        fitting = [n for n, model in self.models.items() if model.task == task]
        if name not in self.models:
            cause = f"The model {quoted(wanted)} does not exist."
        elif name not in fitting:
            cause = f"The model {quoted(wanted)} does not do {task}."
        else:
            return name
        remedy = f"Models for {task}: {', '.join(fitting) or 'none'}."
        raise fail("not_found", cause, remedy, param="model", code="model_not_found")

    def placements(self, name: str) -> list[PlacedModel]:
        """A model's placements, those that live first and of them the one expected to answer first, then the others from the
        cheapest on; equal ones in the order of the config."""
        placed = self._placed[name]
        known = [p.first_answer_seconds for p in placed if p.first_answer_seconds is not None]
        typical = min(known, default=1.0)
        return sorted(placed, key=lambda p: (not p.alive, p.expected_seconds(typical) if p.alive else p.cost))

    def choose(self, name: str, besides: PlacedModel | None = None) -> PlacedModel:
        """The placement that is expected to answer first, another one than `besides` if there is one; one without replicas
        only if no other lives. Call `look` before."""
        in_turn = [placed for placed in self.placements(name) if not self._may_sleep(placed, name)]
        return next((placed for placed in in_turn if placed is not besides), in_turn[0])

    def ensure_not_frozen(self, name: str) -> None:
        """Raises `MotetError` (unavailable) when all replicas of a model are frozen: nothing is to wait for them."""
        placed = self.placements(name)
        if all(each.frozen for each in placed):
            placed[0].ensure_not_frozen()

    async def traits(self, name: str) -> Any:
        """What the model can do, asked once."""
        if name not in self._traits:
            self._traits[name] = await self.call(name, "traits")
        return self._traits[name]

    async def call(self, name: str, method: str, *arguments: Any) -> Any:
        """One answer, from the first placement that gives one."""
        trouble: Exception | None = None
        await self.look(name)
        for placed, alone in self._in_turn(name):
            if self._may_sleep(placed, name):
                continue
            try:
                return _value(await placed.call(method, *arguments, alone=alone))
            except TROUBLE as error:
                trouble = error
        raise unavailable(name, trouble)

    async def reports(self, name: str) -> dict[str, Any]:
        """Every placement's report by its class, or the trouble in its place."""
        placed = self._placed[name]
        answers = await asyncio.gather(*(each.report() for each in placed), return_exceptions=True)
        return {each.kind: answer for each, answer in zip(placed, answers, strict=True)}

    async def stream(
        self, name: str, method: str, *arguments: Any, ticket: Placed | None = None
    ) -> AsyncGenerator[Any]:
        """Answers of the first placement that gives one; after the first answer there is no going elsewhere.

        A `ticket` names the placement to begin with if it lives, and is told which one answers.
        """
        trouble: Exception | None = None
        await self.look(name)
        for placed, alone in self._in_turn(name, ticket.placement if ticket else None):
            if self._may_sleep(placed, name):
                continue
            answers = placed.stream(method, *arguments, alone=alone)
            begun = False
            try:
                async for answer in answers:
                    if ticket and not begun:
                        ticket.placement = placed.name
                    begun = True
                    yield _value(answer)
                return
            except TROUBLE as error:
                if begun:
                    raise unavailable(name, error) from error
                trouble = error
            finally:
                await answers.aclose()
        raise unavailable(name, trouble)

    def asleep(self, name: str) -> list[str]:
        """The classes on which a model has no replicas now and gets some when they are needed."""
        return [placed.kind for placed in self._placed[name] if placed.sleeps]

    async def look(self, name: str) -> None:
        """Notices, soon enough, that a placement of a model lost its last replica."""
        for placed in self._placed[name]:
            await placed.look()

    def _may_sleep(self, placed: PlacedModel, name: str) -> bool:
        """Whether a placement without replicas is left alone, since another one of the model lives."""
        return placed.sleeps and any(other.alive for other in self._placed[name])

    def _in_turn(self, name: str, preferred: str | None = None) -> Iterator[tuple[PlacedModel, bool]]:
        """Each placement once, the best of the rest when it is asked for, and whether it is the last. Not more than
        once: a request that brings its replica down must not do so again and again."""
        tried: list[PlacedModel] = []
        while rest := [placed for placed in self.placements(name) if placed not in tried]:
            wanted = (placed for placed in rest if placed.alive and placed.name == preferred)
            tried.append(next(wanted, rest[0]))
            yield tried[-1], len(rest) == 1


def unavailable(name: str, trouble: Exception | None) -> MotetError:
    """What to tell a client when no placement answered."""
    if isinstance(refused := getattr(trouble, "cause", None), MotetError):
        return refused  # the replica's own words, which Ray wrapped
    if isinstance(trouble, BackPressureError):
        return fail("overloaded", f"The model {name!r} is busy.", "Try again in a moment.", code="model_busy")
    detail = in_one_line(trouble) if trouble else None
    return fail(
        "unavailable", f"The model {name!r} has no replica that answers.", "Try again in a moment.", detail=detail
    )


def _value(answer: Any) -> Any:
    if isinstance(answer, Failure):
        raise MotetError(answer)
    return answer
