"""From the fields of a speech request to its plan."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from deployments.engines.protocols import SpeechRequest, SpeechTraits, VoiceReference
from deployments.errors import fail
from deployments.settings import PieceSettings
from deployments.tasks.speech import no_words
from deployments.tasks.voice_choice import choose_voice, mark_speakers, speaker_marker
from deployments.text.segmentation import cut_into_pieces
from deployments.text.sources import ArrivingText, PieceSource, WholeText
from serve_app.gateway.bodies.input_thread import in_input_thread
from serve_app.gateway.settings import PRESETS, SpeechSettings
from serve_app.gateway.speech.fields import SpeechFields
from serve_app.gateway.speech.models import SpeechModels
from serve_app.gateway.speech.plan import SpeechPlan
from serve_app.gateway.voice_store import VoiceStore

LONG_TEXT_CHARACTERS = 250
"""Cutting a longer text can take more than a few milliseconds, so it is not done on the event loop."""


@dataclass(frozen=True, slots=True)
class ChosenVoice:
    """A model and one of its voices, or a clip that it speaks like."""

    model: str
    traits: SpeechTraits
    voice: str
    reference: VoiceReference | None


@dataclass(frozen=True, slots=True)
class SpeechPlanner:
    """Decides who speaks, cuts the text, and finds the fallback voice. `owner` names whose uploaded voices a request may
    use."""

    models: SpeechModels
    voices: VoiceStore
    settings: SpeechSettings

    async def plan_whole(self, fields: SpeechFields, text: str, owner: str) -> SpeechPlan:
        """The plan for a whole text. Raises `MotetError`: (not_found) for an unknown model or voice, (unsupported) for a clip
        that the model cannot use, (too_large), and (invalid) for a text without words."""
        chosen = await self._chosen(fields, owner)
        most = self.settings.max_input_characters
        if len(text) > most:
            raise fail(
                "too_large",
                f"The input has {len(text):,} characters; this service takes {most:,}.",
                "Send it in parts.",
                param="input",
                code="string_above_max_length",
            )
        large = len(text) > LONG_TEXT_CHARACTERS
        pieces = await in_input_thread(large, _cut, text, self.settings.pieces, chosen)
        return await self._plan(fields, chosen, WholeText(pieces), pieces)

    async def plan_arriving(self, fields: SpeechFields, owner: str) -> tuple[SpeechPlan, ArrivingText]:
        """The plan for a text that is still being written, and that text. Raises as `plan_whole` does."""
        chosen = await self._chosen(fields, owner)
        marker = speaker_marker(chosen.traits, chosen.voice)
        text = ArrivingText(self.settings.pieces, self.settings.arrival, marker)
        return await self._plan(fields, chosen, text, ()), text

    async def _chosen(self, fields: SpeechFields, owner: str) -> ChosenVoice:
        name = self.models.resolve(fields.model)
        traits = await self.models.traits(name)
        if fields.voice is not None and self.voices.is_id(fields.voice):
            if not traits.clones:
                raise await self.models.cannot_clone(name)
            reference = await asyncio.to_thread(self.voices.reference, owner, fields.voice)
            return ChosenVoice(name, traits, reference.id, reference)
        aliases = self.models.directory.models[name].voice_aliases
        return ChosenVoice(name, traits, choose_voice(fields.voice, traits, aliases), None)

    async def _plan(
        self, fields: SpeechFields, chosen: ChosenVoice, text: PieceSource, pieces: tuple[str, ...]
    ) -> SpeechPlan:
        settings = self.settings
        pacing = fields.pacing or settings.pacing_mode
        wanted = fields.instructions or ""
        instructions = wanted if wanted and chosen.traits.follows(wanted) else ""
        return SpeechPlan(
            model=chosen.model,
            request=SpeechRequest(
                pieces,
                chosen.voice,
                fields.speed,
                fields.seed,
                reference=chosen.reference,
                instructions=instructions,
            ),
            traits=chosen.traits,
            audio_format=fields.response_format or settings.default_format,
            pacing=settings.pacing if pacing == "fast" or pacing == "played" else PRESETS[pacing],
            text=text,
            played=pacing != "fast",
            max_request_seconds=settings.request_seconds_of_audio,
            fallback=None if pacing == "fast" else await self.models.fallback_for(chosen.model),
            ignored=("instructions",) if wanted and not instructions else (),
        )


def _cut(text: str, settings: PieceSettings, chosen: ChosenVoice) -> tuple[str, ...]:
    pieces = cut_into_pieces(text, settings)
    if not pieces:
        raise no_words()
    return mark_speakers(pieces, chosen.traits, chosen.voice)
