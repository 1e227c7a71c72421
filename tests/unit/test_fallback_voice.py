"""Which voice takes over from a late model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.engines.protocols import SpeechTraits, Voice
from deployments.settings import SpilloverSettings
from serve_app.gateway.speech.models import SpeechModels

TRAITS = SpeechTraits(24_000, (Voice("bo", "en", ""),), "bo", 0.5, 1.5)


@dataclass
class Directory:
    """Two speech models, of which some have no replica now."""

    asleep: Sequence[str] = ()
    asked: list[str] = field(default_factory=list)
    models: Mapping[str, Any] = field(
        default_factory=lambda: {name: SimpleNamespace(task="speech", voice_aliases={}) for name in ("first", "second")}
    )

    @property
    def offered(self) -> Mapping[str, Any]:
        return self.models

    def resolve(self, wanted: str, task: str) -> str:
        return wanted

    def sleeps(self, name: str) -> bool:
        return name in self.asleep

    async def traits(self, name: str) -> SpeechTraits:
        self.asked.append(name)
        return TRAITS


def models(directory: Directory, fallback: str | None = None) -> SpeechModels:
    return SpeechModels(directory, fallback, None, SpilloverSettings())


@pytest.mark.parametrize(("late", "taking_over"), [("first", "second"), ("second", "first")])
async def test_another_model_takes_over(late: str, taking_over: str) -> None:
    chosen = await models(Directory()).fallback_for(late)
    assert chosen is not None
    assert (chosen.model, chosen.voice) == (taking_over, "bo")


async def test_the_fallback_model_itself_has_none() -> None:
    assert await models(Directory(), fallback="second").fallback_for("second") is None


async def test_a_model_without_replicas_is_not_woken() -> None:
    directory = Directory(asleep=["second"])
    assert await models(directory).fallback_for("first") is None
    assert directory.asked == []
