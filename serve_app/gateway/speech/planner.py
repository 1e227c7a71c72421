"""From the fields of a speech request to its plan."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from deployments.engines.protocols import SpeechRequest, SpeechTraits, VoiceReference
from deployments.errors import fail, quoted
from deployments.tasks.piece_preparation import PieceMaker, PreparedText
from deployments.tasks.voice_choice import choose_voice
from deployments.text.lexicon import Lexicon
from deployments.text.sources import ArrivingText, PieceSource, WholeText
from serve_app.gateway.bodies.input_thread import in_input_thread
from serve_app.gateway.settings import PRESETS, SpeechSettings
from serve_app.gateway.speech.fields import SpeechFields
from serve_app.gateway.speech.models import AligningModel, SpeechModels
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
        that the model cannot use, (too_large), and (invalid) for a text without words or in a script that the voice does not
        read."""
        chosen = await self._chosen(fields, owner)
        most = self.settings.max_input_characters
        if len(text) > most:
            raise fail(
                "too_large",
                f"The input has {len(text):,} characters; this service takes {most:,}.",
                "Send it in parts, or render it with `motet bulk`, which takes books and data sets of any length.",
                param="input",
                code="string_above_max_length",
            )
        large = len(text) > LONG_TEXT_CHARACTERS
        found = await in_input_thread(large, self._prepared, text, fields, chosen)
        plan = await self._plan(fields, chosen, WholeText(found.pieces), found.ignored)
        return replace(plan, unread_scripts=found.unread_scripts)

    async def plan_arriving(
        self, fields: SpeechFields, owner: str, *, patient: bool = False
    ) -> tuple[SpeechPlan, ArrivingText]:
        """The plan for a text that is still being written, and that text, which may be `patient`. Raises as `plan_whole`
        does."""
        chosen = await self._chosen(fields, owner)
        maker = self._piece_maker(fields, chosen)
        text = ArrivingText(maker.cutter(self.settings.pieces), self.settings.arrival, maker, patient=patient)
        return await self._plan(fields, chosen, text), text

    async def read_document(self, fields: SpeechFields, plan: SpeechPlan, document: str) -> PreparedText:
        """One of the documents in SSML of a text that is still being written. Raises `MotetError` as `plan_whole` does."""
        chosen = ChosenVoice(plan.model, plan.traits, plan.request.voice, plan.request.reference)
        return await in_input_thread(len(document) > LONG_TEXT_CHARACTERS, self._prepared, document, fields, chosen)

    def _prepared(self, text: str, fields: SpeechFields, chosen: ChosenVoice) -> PreparedText:
        maker, pieces = self._piece_maker(fields, chosen), self.settings.pieces
        if fields.input_type == "ssml":
            return maker.of_ssml(text, pieces, self.models.directory.models[chosen.model].voice_aliases)
        return maker.of_text(text, pieces)

    def _piece_maker(self, fields: SpeechFields, chosen: ChosenVoice) -> PieceMaker:
        rules = self.settings.normalize.changed(fields.normalize)
        lexicons = (Lexicon(fields.lexicon), self.settings.known_words)
        return PieceMaker(chosen.traits, chosen.voice, lexicons, rules)

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
        self, fields: SpeechFields, chosen: ChosenVoice, text: PieceSource, ignored: tuple[str, ...] = ()
    ) -> SpeechPlan:
        settings = self.settings
        pacing = fields.pacing or settings.pacing_mode
        wanted = fields.instructions or ""
        instructions = wanted if wanted and chosen.traits.follows(wanted) else ""
        return SpeechPlan(
            model=chosen.model,
            request=SpeechRequest(
                (),
                chosen.voice,
                fields.speed,
                fields.seed,
                reference=chosen.reference,
                instructions=instructions,
            ),
            traits=chosen.traits,
            audio_format=fields.response_format or settings.default_format,
            audio_rate=fields.sample_rate,
            loudness_lufs=settings.loudness_lufs if fields.loudness_lufs is None else fields.loudness_lufs,
            pacing=settings.pacing if pacing == "fast" or pacing == "played" else PRESETS[pacing],
            text=text,
            played=pacing != "fast",
            max_request_seconds=settings.request_seconds_of_audio,
            fallback=None if pacing == "fast" else await self.models.fallback_for(chosen.model),
            word_timestamps=fields.word_timestamps,
            aligning=await self._aligning(chosen) if fields.word_timestamps else None,
            ignored=(("instructions",) if wanted and not instructions else ()) + ignored,
            quality=settings.quality,
            verifier=self.models.verifier(settings.verify_model) if fields.verify else None,
        )

    async def _aligning(self, chosen: ChosenVoice) -> AligningModel | None:
        """The model that finds the words; None if the speech model knows them. Raises `MotetError` (unsupported) if there is
        none."""
        if chosen.traits.word_times:
            return None
        found = await self.models.aligning_model()
        if found is None:
            cause = f"The model {quoted(chosen.model)} does not know when it speaks each word."
            remedy = "Add a transcription model that gives word times, such as whisper, or leave word_timestamps out."
            raise fail("unsupported", cause, remedy, param="word_timestamps", code="word_timestamps_not_supported")
        return found
