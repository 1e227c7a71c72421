"""Which placement of a model takes a request: the one expected to answer first; and what happens when one is gone.

Ray Serve's router never says that a deployment has no replica: it keeps a request until there is one again. So a placement
that stays silent is asked whether it lives, beside the request, and while it does not answer that its requests go to the
model's other placements. The question stays open in Ray Serve's router, and is answered by the first replica that is back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.errors import Failure, MotetError, fail
from serve_app.config import AppConfig, Model, Spillover

Answer = TypeVar("Answer")

TROUBLE = (RayError, RayServeException)
"""What Ray raises when a replica is gone, or takes no more."""

SMOOTHING = 0.2
"""Weight of the newest time to first answer in its running mean."""

_END = object()


class Placed(Protocol):
    """Whatever remembers where a request is answered: the placement to begin with, and then the one that answered."""

    placement: str


class NoReplica(RayServeException):
    """No replica of a placement answers."""


class PlacedModel:
    """One model on one hardware class, as seen from the gateway."""

    def __init__(
        self,
        model: str,
        kind: str,
        handle: DeploymentHandle[Any],
        spillover: Spillover,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = f"{model}@{kind}"
        self.kind = kind
        self.handle = handle
        self.under_way = 0
        self.alive = True
        self.first_answer_seconds: float | None = None
        self._streaming = handle.options(stream=True)
        self._spillover = spillover
        self._clock = clock
        self._question: asyncio.Task[None] | None = None

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
        with self.request(), self._doubted():
            answer = getattr(self.handle, method).remote(*arguments)
            return await (answer if alone else self.while_alive(answer))

    async def report(self) -> Any:
        """How a replica came up and what it takes. Raises `NoReplica`, at once where that is known already."""
        if not self.alive:
            raise NoReplica(f"No replica of {self.name} answers.")
        return await self.call("report", alone=False)

    async def stream(self, method: str, *arguments: Any, alone: bool) -> AsyncGenerator[Any]:
        """Streams a method's answers. The stream is cancelled when the caller stops reading, for whatever reason.

        Raises `NoReplica` before the first answer as `call` does.
        """
        asked, place_in_line = self._clock(), self.under_way + 1
        answers = getattr(self._streaming, method).remote(*arguments)
        items: AsyncIterator[Any] = aiter(answers)
        ended = False
        with self.request(), self._doubted():
            try:
                first = _next(items)
                answer = await (first if alone else self.while_alive(first))
                self._learn((self._clock() - asked) / place_in_line)
                while answer is not _END:
                    yield answer
                    answer = await _next(items)
                ended = True
            finally:
                if not ended:
                    answers.cancel()

    async def while_alive(self, answer: Awaitable[Answer]) -> Answer:
        """The answer, however long it takes, as long as a replica lives. Raises `NoReplica`."""
        awaited = asyncio.ensure_future(answer)
        try:
            while not await _done(awaited, self._spillover.silent_s):
                question = self._ask()
                if not await _done(awaited, self._spillover.life_sign_s, question) and not question.done():
                    self.alive = False
                    raise NoReplica(f"No replica of {self.name} answers.")
            return awaited.result()
        finally:
            awaited.add_done_callback(_settle)
            awaited.cancel()

    def doubt(self) -> None:
        """A replica is gone: others go elsewhere until one answers."""
        self.alive = False
        self._ask()

    @contextmanager
    def _doubted(self) -> Iterator[None]:
        """Raises what is raised inside, and doubts the placement when a replica was lost."""
        try:
            yield
        except (RayActorError, NoReplica):
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
                await self.handle.report.remote()
                break
            except TROUBLE:
                await asyncio.sleep(self._spillover.ask_again_s)
        if not self.alive:
            self.alive, self.first_answer_seconds = True, None  # a new replica: what the old one took says nothing

    def _learn(self, seconds: float) -> None:
        known = self.first_answer_seconds
        self.first_answer_seconds = seconds if known is None else known + SMOOTHING * (seconds - known)


def _settle(awaited: asyncio.Future[Any]) -> None:
    """Nobody wants it any more, so nobody need be told how it went."""
    if not awaited.cancelled():
        awaited.exception()


async def _next(items: AsyncIterator[Any]) -> Any:
    return await anext(items, _END)


async def _done(wanted: asyncio.Future[Any], timeout_s: float, *others: asyncio.Future[Any]) -> bool:
    """Waits until `wanted` or one of the others is done, or the time is over; whether `wanted` is."""
    await asyncio.wait({wanted, *others}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    return wanted.done()


class ModelDirectory:
    """Every model by name and alias, with its placements."""

    def __init__(self, config: AppConfig, handles: Mapping[str, Mapping[str, DeploymentHandle[Any]]]) -> None:
        self.models: Mapping[str, Model] = config.models
        self._aliases = {alias: name for name, model in config.models.items() for alias in model.aliases}
        self._placed = {
            name: [PlacedModel(name, kind, handle, config.spillover) for kind, handle in kinds.items()]
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
            cause = f"The model {wanted!r} does not exist."
        elif name not in fitting:
            cause = f"The model {wanted!r} does not do {task}."
        else:
            return name
        remedy = f"Models for {task}: {', '.join(fitting) or 'none'}."
        raise fail("not_found", cause, remedy, param="model", code="model_not_found")

    def placements(self, name: str) -> list[PlacedModel]:
        """A model's placements, those that live first and of them the one expected to answer first; equal ones in the
        order of the config."""
        placed = self._placed[name]
        known = [p.first_answer_seconds for p in placed if p.first_answer_seconds is not None]
        typical = min(known, default=1.0)
        return sorted(placed, key=lambda p: (not p.alive, p.expected_seconds(typical)))

    async def traits(self, name: str) -> Any:
        """What the model can do, asked once."""
        if name not in self._traits:
            self._traits[name] = await self.call(name, "traits")
        return self._traits[name]

    async def call(self, name: str, method: str, *arguments: Any) -> Any:
        """One answer, from the first placement that gives one."""
        trouble: Exception | None = None
        for placed, alone in self._in_turn(name):
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
        for placed, alone in self._in_turn(name, ticket.placement if ticket else None):
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
    return fail("unavailable", f"The model {name!r} has no replica that answers.", "Try again in a moment.")


def _value(answer: Any) -> Any:
    if isinstance(answer, Failure):
        raise MotetError(answer)
    return answer
