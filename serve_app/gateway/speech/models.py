"""The speech models of the service: what they can do, which ones speak like a clip, and which one takes over."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from deployments.engines.protocols import RecognitionTraits, SpeechTraits
from deployments.errors import MotetError, fail, quoted
from deployments.settings import SpilloverSettings


@dataclass(frozen=True, slots=True)
class FallbackVoice:
    """The model that takes over from a late one, with one voice of its own."""

    model: str
    voice: str
    traits: SpeechTraits


@dataclass(frozen=True, slots=True)
class AligningModel:
    """The transcription model that finds words in speech."""

    model: str
    traits: RecognitionTraits


class KnownModel(Protocol):
    """What the configuration says about a model."""

    @property
    def task(self) -> str:
        """What the model does."""

    @property
    def voice_aliases(self) -> Mapping[str, str]:
        """Other names of its voices."""


class Models(Protocol):
    """The models of the service (`ModelDirectory`)."""

    @property
    def models(self) -> Mapping[str, KnownModel]:
        """All models by name, in the order of the configuration."""

    @property
    def offered(self) -> Mapping[str, KnownModel]:
        """Those that new requests may use."""

    def resolve(self, wanted: str, task: str) -> str:
        """The name of a model that is given by name or alias. Raises `MotetError` (not_found)."""

    def sleeps(self, name: str) -> bool:
        """Whether a model has no replica now, and starts one on demand."""

    async def traits(self, name: str) -> Any:
        """What a model can do."""


@dataclass(frozen=True, slots=True)
class SpeechModels:
    """Asks the models. `fallback` is the model that takes over; without it, the first other one. `aligning` is the model that
    finds the words in speech; without it, the first one that can."""

    directory: Models
    fallback: str | None
    aligning: str | None
    spillover: SpilloverSettings

    @property
    def names(self) -> list[str]:
        """All speech models, in the order of the configuration."""
        return self._names_of("speech")

    def resolve(self, wanted: str) -> str:
        """The name of a model that is given by name or alias. Raises `MotetError` (not_found)."""
        return self.directory.resolve(wanted, "speech")

    def verifier(self, wanted: str | None) -> str:
        """The model that hears what others say: the wanted one, or the first transcription model. Raises `MotetError`:
        (unsupported) if there is none, (not_found) for an unknown one."""
        if wanted is not None:
            return self.directory.resolve(wanted, "transcription")
        if found := self._names_of("transcription"):
            return found[0]
        cause = "This service has no transcription model that could hear the speech."
        raise fail("unsupported", cause, "Leave verify out, or add such a model.", param="verify")

    async def traits(self, name: str) -> SpeechTraits:
        """What a model can do. Waits for a replica."""
        traits: SpeechTraits = await self.directory.traits(name)
        return traits

    async def traits_now(self, name: str) -> SpeechTraits:
        """What a model can do. Raises `MotetError` (unavailable) if no replica answers soon."""
        try:
            async with asyncio.timeout(self.spillover.silent_s + self.spillover.life_sign_s):
                return await self.traits(name)
        except TimeoutError as error:
            raise fail("unavailable", f"The model {name!r} does not answer now.", "Try again later.") from error

    async def cloning(self) -> list[str]:
        """The models that speak like a clip, of those that answer soon. Asks all at once."""
        answers = await asyncio.gather(*map(self.traits_now, self.names), return_exceptions=True)
        able = []
        for name, traits in zip(self.names, answers, strict=True):
            if isinstance(traits, SpeechTraits) and traits.clones:
                able.append(name)
            elif isinstance(traits, BaseException) and not isinstance(traits, MotetError):
                raise traits
        return able

    async def cannot_clone(self, model: str) -> MotetError:
        """The error for an uploaded voice with a model that does not speak like a clip."""
        able = await self.cloning()
        remedy = f"Use one of: {', '.join(able)}." if able else "No model of this service can; add one that clones."
        cause = f"The model {quoted(model)} cannot speak with an uploaded voice."
        return fail("unsupported", cause, remedy, param="voice", code="voice_not_supported")

    async def aligning_model(self) -> AligningModel | None:
        """The transcription model that finds words in speech. None if there is none, or it does not answer soon."""
        names = [self.aligning] if self.aligning else self._names_of("transcription")
        for name in names:
            try:
                async with asyncio.timeout(self.spillover.life_sign_s):
                    traits = await self.directory.traits(name)
            except (TimeoutError, MotetError):
                continue
            if traits.word_times:
                return AligningModel(name, traits)
        return None

    async def fallback_for(self, name: str) -> FallbackVoice | None:
        """The voice that takes over when a model is late. None if there is no other speech model, or it has no replica now,
        or does not answer soon."""
        chosen = self.fallback or next((other for other in self.names if other != name), None)
        if chosen is None or chosen == name or self.directory.sleeps(chosen):
            return None
        try:
            async with asyncio.timeout(self.spillover.life_sign_s):
                traits = await self.traits(chosen)
        except (TimeoutError, MotetError):
            return None
        return FallbackVoice(chosen, traits.default_voice, traits) if traits.default_voice else None

    def _names_of(self, task: str) -> list[str]:
        return [name for name, model in self.directory.offered.items() if model.task == task]
