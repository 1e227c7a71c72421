"""Which placement of a model takes a request: the one expected to answer first; and what happens when one is gone."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.errors import Failure, MotetError, fail
from serve_app.config import AppConfig, Model

SMOOTHING = 0.2
"""Weight of the newest time to first answer in its running mean."""


class PlacedModel:
    """One model on one hardware class, as seen from the gateway."""

    def __init__(self, kind: str, handle: DeploymentHandle[Any], clock: Callable[[], float] = time.monotonic) -> None:
        self.kind = kind
        self.handle = handle
        self.under_way = 0
        self._streaming = handle.options(stream=True)
        self._clock = clock
        self.first_answer_seconds: float | None = None

    def expected_seconds(self, typical: float) -> float:
        """Expected time to the first answer: what it took lately, for everyone who is ahead and for this request.

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

    async def stream(self, method: str, *arguments: Any) -> AsyncGenerator[Any]:
        """Streams a method's answers. The stream is cancelled when the caller stops reading, for whatever reason."""
        asked: float | None = self._clock()
        answers = getattr(self._streaming, method).remote(*arguments)
        ended = False
        with self.request():
            try:
                async for answer in answers:
                    if asked is not None:
                        self._learn(self._clock() - asked)
                        asked = None
                    yield answer
                ended = True
            finally:
                if not ended:
                    answers.cancel()

    def _learn(self, seconds: float) -> None:
        known = self.first_answer_seconds
        self.first_answer_seconds = seconds if known is None else known + SMOOTHING * (seconds - known)


class ModelDirectory:
    """Every model by name and alias, with its placements."""

    def __init__(self, config: AppConfig, handles: Mapping[str, Mapping[str, DeploymentHandle[Any]]]) -> None:
        self.models: Mapping[str, Model] = config.models
        self._aliases = {alias: name for name, model in config.models.items() for alias in model.aliases}
        self._placed = {name: [PlacedModel(k, h) for k, h in kinds.items()] for name, kinds in handles.items()}
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
        """A model's placements, the one expected to answer first in front; equal ones in the order of the config."""
        placed = self._placed[name]
        known = [p.first_answer_seconds for p in placed if p.first_answer_seconds is not None]
        typical = min(known, default=1.0)
        return sorted(placed, key=lambda p: p.expected_seconds(typical))

    async def traits(self, name: str) -> Any:
        """What the model can do, asked once."""
        if name not in self._traits:
            self._traits[name] = await self.call(name, "traits")
        return self._traits[name]

    async def call(self, name: str, method: str, *arguments: Any) -> Any:
        """One answer, from the first placement that gives one."""
        trouble: Exception | None = None
        for placed in self.placements(name):
            try:
                with placed.request():
                    return _value(await getattr(placed.handle, method).remote(*arguments))
            except (RayError, RayServeException) as error:
                trouble = error
        raise unavailable(name, trouble)

    async def stream(self, name: str, method: str, *arguments: Any) -> AsyncGenerator[Any]:
        """Answers of the first placement that gives one; after the first answer there is no going elsewhere."""
        trouble: Exception | None = None
        for placed in self.placements(name):
            answers = placed.stream(method, *arguments)
            begun = False
            try:
                async for answer in answers:
                    begun = True
                    yield _value(answer)
                return
            except (RayError, RayServeException) as error:
                if begun:
                    raise unavailable(name, error) from error
                trouble = error
            finally:
                await answers.aclose()
        raise unavailable(name, trouble)


def unavailable(name: str, trouble: Exception | None) -> MotetError:
    """What to tell a client when no placement answered."""
    if isinstance(trouble, BackPressureError):
        return fail("overloaded", f"The model {name!r} is busy.", "Try again in a moment.", code="model_busy")
    return fail("unavailable", f"The model {name!r} has no replica that answers.", "Try again in a moment.")


def _value(answer: Any) -> Any:
    if isinstance(answer, Failure):
        raise MotetError(answer)
    return answer
