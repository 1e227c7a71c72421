"""Every model by name and alias, and which of its placements takes a request: the one expected to answer first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ray.serve.exceptions import BackPressureError

from cluster.placement_state import best_of, in_order, in_turn, is_skipped
from deployments.errors import Failure, MotetError, fail, in_one_line, quoted
from serve_app.gateway.request_context import REQUEST, RequestRecord, current_key, current_request
from serve_app.gateway.routing.placement import LOST, MIN_RETRY_S, PlacedModel


class HasPlacement(Protocol):
    """Remembers which placement answers a request: the one to begin with, and then the one that answered."""

    placement: str

    @property
    def silent(self) -> bool:
        """Whether the request still waits for its first audio."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """What the gateway knows of a model. `kinds` are the hardware classes of its placements; `max_wait_s` overrides the
    setting of its task. At most `replicas` of it run, each with up to `max_batch_size` items in a step. `weights` says what
    decides its results: engine, source and options. `grows`: the number of replicas follows what waits."""

    task: str
    aliases: Sequence[str]
    voice_aliases: Mapping[str, str]
    max_wait_s: float | None
    kinds: Sequence[str]
    replicas: int = 1
    max_batch_size: int = 1
    weights: str = ""
    grows: bool = False


class ModelDirectory:
    """The models of the service with their placements, in the order of the configuration. Those that were loaded while it
    runs come after them, and may leave: first they are withdrawn, and when the requests that use them have ended, removed."""

    def __init__(self, models: Mapping[str, ModelEntry], placed: Mapping[str, Sequence[PlacedModel]]) -> None:
        self._models = dict(models)
        self._aliases = {alias: name for name, model in models.items() for alias in model.aliases}
        self._placed = dict(placed)
        self._traits: dict[str, Any] = {}
        self._arriving: frozenset[str] = frozenset()
        self._withdrawn: set[str] = set()
        self._users: dict[str, set[int]] = {}

    @property
    def models(self) -> Mapping[str, ModelEntry]:
        """All models by name, also those that only open requests still use."""
        return self._models

    @property
    def offered(self) -> dict[str, ModelEntry]:
        """The models that new requests may use."""
        return {name: model for name, model in self._models.items() if name not in self._withdrawn}

    @property
    def aliases(self) -> Mapping[str, str]:
        """Alias to model name."""
        return self._aliases

    def resolve(self, wanted: str, task: str) -> str:
        """The name of a model given by name or alias. Raises `MotetError`: not_found if no model of that name does the task,
        forbidden if the request's key may not use it."""
        name = self._aliases.get(wanted, wanted)
        if name in self._arriving:
            cause = f"The model {quoted(wanted)} is being loaded."
            raise fail("unavailable", cause, "Try again in a moment.", param="model", code="model_loading")
        model = None if name in self._withdrawn else self._models.get(name)
        if model is not None and model.task == task:
            current_request().model = name
            current_key().ensure_may_use(name)
            self._note_use(name)
            return name
        what = "exist" if model is None else f"do {task}"
        cause = f"The model {quoted(wanted)} does not {what}."
        fitting = [name for name, model in self.offered.items() if model.task == task]
        remedy = f"Models for {task}: {', '.join(fitting) or 'none'}."
        raise fail("not_found", cause, remedy, param="model", code="model_not_found")

    def first(self, task: str) -> str:
        """The first model of the configuration that does the task and that the request's key may use. Raises `MotetError`
        (not_found) if there is none."""
        for name, model in self.offered.items():
            if model.task == task and current_key().may_use(name):
                self._note_use(name)
                return name
        raise fail("not_found", f"No model does {task}.", "Add one to the configuration.", param="model")

    def placements(self, name: str) -> list[PlacedModel]:
        """A model's placements. Those with a live replica come first, the one expected to answer first before the others;
        then the rest by cost. Equal ones keep the order of the configuration."""
        return in_order(self._placed_for(name))

    def choose(self, name: str, besides: PlacedModel | None = None) -> PlacedModel:
        """The placement for a window, a chunk or a live stream (`best_of`), other than `besides` if there is another. Call
        `refresh` before."""
        return best_of(self._placed_for(name), besides)

    def living(self, name: str) -> int:
        """How many placements of a model have a live replica; at least 1."""
        return max(1, sum(placed.alive for placed in self._placed[name]))

    def ensure_answers_soon(self, name: str) -> None:
        """Raises `MotetError` (unavailable) if no replica of a model answers, and none is expected to do so soon enough."""
        placed = self.placements(name)
        if all(each.absence.lasts for each in placed):
            min(placed, key=lambda each: each.absence.left_s).absence.ensure_short()

    async def traits(self, name: str) -> Any:
        """What the model can do. A replica is asked once; later calls return the same answer."""
        if name not in self._traits:
            self._traits[name] = await self.call(name, "traits")
        return self._traits[name]

    async def call(self, name: str, method: str, *arguments: Any) -> Any:
        """One answer, from the first placement that gives one. Raises `MotetError`."""
        lost: Exception | None = None
        await self.refresh(name)
        for placed, last in in_turn(self._placed_for(name)):
            if self._skipped(placed, name):
                continue
            try:
                return value_of(await placed.call(method, *arguments, last=last))
            except LOST as error:
                lost = error
        raise await self._unavailable(name, lost)

    async def reports(self, name: str) -> dict[str, Any]:
        """The report of every placement by its hardware class, or the exception in its place."""
        placed = self._placed[name]
        answers = await asyncio.gather(*(each.report() for each in placed), return_exceptions=True)
        return {each.kind: answer for each, answer in zip(placed, answers, strict=True)}

    async def stream(
        self,
        name: str,
        method: str,
        *arguments: Any,
        ticket: HasPlacement | None = None,
        besides: str | None = None,
    ) -> AsyncGenerator[Any]:
        """The answers of the first placement that gives one. After its first answer there is no other attempt.

        A `ticket` names the placement to begin with, and gets the one that answers; once it has audio, it waits for a
        restart. The placement `besides` comes after
        others that run. Raises `MotetError`.
        """
        lost: Exception | None = None
        await self.refresh(name)
        for placed, last in in_turn(self._placed_for(name), ticket.placement if ticket else None, besides):
            if self._skipped(placed, name):
                continue
            answers = placed.stream(method, *arguments, last=last, begun=ticket is not None and not ticket.silent)
            started = False
            try:
                async for answer in answers:
                    if ticket and not started:
                        ticket.placement = placed.name
                    started = True
                    yield value_of(answer)
                return
            except LOST as error:
                if started:
                    raise await self._unavailable(name, error) from error
                lost = error
            finally:
                await answers.aclose()
        raise await self._unavailable(name, lost)

    async def _unavailable(self, name: str, lost: Exception | None) -> MotetError:
        """The error of a request that no placement answered, with the time until a replica is expected to."""
        error = unavailable(name, lost)
        if error.failure.kind != "unavailable":
            return error
        back_s = min(await asyncio.gather(*(placed.back_in_s() for placed in self._placed[name])))
        return MotetError(replace(error.failure, retry_after_s=max(back_s, MIN_RETRY_S))) if back_s > 0 else error

    def sleeps(self, name: str) -> bool:
        """Whether a model has no replica now, and starts one on demand."""
        return all(placed.sleeps for placed in self._placed[name])

    def asleep(self, name: str) -> list[str]:
        """The hardware classes on which a model has no replica now and starts one on demand."""
        return [placed.kind for placed in self._placed[name] if placed.sleeps]

    async def refresh(self, name: str) -> None:
        """Notices that placements of a model lost their last replica because there was no load."""
        for placed in self._placed[name]:
            await placed.refresh()

    def add(self, name: str, model: ModelEntry, placed: Sequence[PlacedModel]) -> None:
        """Offers one more model. Its name and aliases are free."""
        self._withdrawn.discard(name)  # one of that name may have been withdrawn, with requests that are still open
        self._models[name], self._placed[name] = model, placed
        self._users.setdefault(name, set())
        self._aliases |= dict.fromkeys(model.aliases, name)
        self._traits.pop(name, None)

    @property
    def added(self) -> Collection[str]:
        """The models that were added, and are not removed yet."""
        return self._users.keys()

    def withdraw(self, name: str) -> None:
        """Offers a model that was added no longer. Requests that use it go on. Safe to call again."""
        self._withdrawn.add(name)
        for alias in self._models[name].aliases:
            self._aliases.pop(alias, None)

    def remove(self, name: str) -> None:
        """Forgets a model that was withdrawn."""
        self._withdrawn.discard(name)
        for known in (self._models, self._placed, self._users, self._traits):
            known.pop(name, None)

    def expect(self, names: Collection[str]) -> None:
        """Names and aliases of models that are being loaded: a request for one of them may be repeated."""
        self._arriving = frozenset(names)

    def open_requests(self, name: str) -> int:
        """The number of open requests that use a model that was added."""
        return len(self._users.get(name, ()))

    def forget(self, request: RequestRecord) -> None:
        """A request ended."""
        for users in self._users.values():
            users.discard(id(request))

    def _placed_for(self, name: str) -> Sequence[PlacedModel]:
        self._note_use(name)
        return self._placed[name]

    def _note_use(self, name: str) -> None:
        """The request of this task uses a model, until it ends."""
        if name in self._users and (request := REQUEST.get()) is not None:
            self._users[name].add(id(request))

    def _skipped(self, placed: PlacedModel, name: str) -> bool:
        return is_skipped(placed, self._placed[name])


def unavailable(name: str, lost: Exception | None) -> MotetError:
    """The error of a request that no placement answered. `lost` is what Ray raised last."""
    if lost and (refused := refusal_of(name, lost)):
        return refused
    detail = in_one_line(lost) if lost else None
    return fail(
        "unavailable", f"The model {name!r} has no replica that answers.", "Try again in a moment.", detail=detail
    )


def refusal_of(name: str, lost: Exception) -> MotetError | None:
    """The error of a model that refused a request: raised by its replica and wrapped by Ray, or full queues. None if its
    replica is gone."""
    if isinstance(refused := getattr(lost, "cause", None), MotetError):
        return refused
    if isinstance(lost, BackPressureError):
        return fail("overloaded", f"The model {name!r} is busy.", "Try again in a moment.", code="model_busy")
    return None


def value_of(answer: Any) -> Any:
    """An answer of a replica. Raises `MotetError` if it is a `Failure`."""
    if isinstance(answer, Failure):
        raise MotetError(answer)
    return answer
