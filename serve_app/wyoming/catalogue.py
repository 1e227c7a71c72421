"""The models and voices of a service, as a Wyoming client sees and chooses them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from wyoming.info import AsrModel, AsrProgram, Attribution, Info, TtsProgram, TtsVoice
from wyoming.tts import SynthesizeVoice

from deployments.errors import MotetError, fail, quoted
from deployments.text.languages import NAMES

PROGRAM = "motet"
ANY_LANGUAGE = "und"
"""BCP 47's tag of a voice that speaks any language."""
_OURS: Mapping[str, Any] = {"attribution": Attribution("Motet", ""), "installed": True, "version": version("motet")}


@dataclass(frozen=True, slots=True)
class OfferedVoice:
    """A voice under the name by which clients choose it, and the model that speaks with it. Without an `id` it is the
    model's usual voice. An empty `languages` means any language."""

    name: str
    model: str
    id: str | None
    languages: tuple[str, ...] = ()
    description: str | None = None


@dataclass(frozen=True, slots=True)
class OfferedRecognition:
    """A model that transcribes, with its other names. An empty `languages` means any language."""

    name: str
    aliases: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What a service offers. Its own order is kept: the first that fits a choice is taken."""

    speech_models: tuple[str, ...]
    voices: tuple[OfferedVoice, ...]
    recognition: tuple[OfferedRecognition, ...]

    @classmethod
    def of(cls, models: Iterable[Mapping[str, Any]], voices: Iterable[Mapping[str, Any]]) -> Catalogue:
        """From the entries of `/v1/models` and `/v1/audio/voices`."""
        own = [entry for entry in models if "alias_of" not in entry["motet"] and _is_ready(entry)]
        speech = tuple(entry["id"] for entry in own if entry["motet"]["task"] == "speech")
        recognition = tuple(_recognition(entry) for entry in own if entry["motet"]["task"] == "transcription")
        return cls(speech, tuple(_named(voices, speech)), recognition)

    def info(self) -> Info:
        """The answer to `describe`. Home Assistant uses the first program of each kind, so there is one with everything."""
        recognizers = [
            AsrModel(name=model.name, languages=_listed(model.languages), description=model.name, **_OURS)
            for model in self.recognition
        ]
        speakers = [
            TtsVoice(name=voice.name, languages=_listed(voice.languages), description=_description(voice), **_OURS)
            for voice in self.voices
        ]
        what = {"name": PROGRAM, "description": "Motet", **_OURS}
        return Info(
            asr=[AsrProgram(models=recognizers, supports_transcript_streaming=True, **what)] if recognizers else [],
            tts=[TtsProgram(voices=speakers, supports_synthesize_streaming=True, **what)] if speakers else [],
        )

    def voice(self, chosen: SynthesizeVoice | None) -> OfferedVoice:
        """The voice of that name or, without a name, the first of that language. Raises `MotetError` (not_found)."""
        if not self.speech_models:
            raise fail("not_found", "The service has no model that speaks.", "Add one.", code="model_not_found")
        if chosen is None or not (chosen.name or chosen.language):
            return OfferedVoice("", self.speech_models[0], None)
        fitting = [
            voice
            for voice in self.voices
            if (chosen.name in (voice.name, voice.id) if chosen.name else _speaks(voice.languages, chosen.language))
        ]
        if not fitting:
            raise _unknown("voice", chosen.name or f"for {chosen.language}", [voice.name for voice in self.voices])
        return fitting[0]

    def recognition_model(self, name: str | None, language: str | None) -> str:
        """The model of that name or, without a name, the first that hears the language. Raises `MotetError` (not_found)."""
        fitting = [
            model.name
            for model in self.recognition
            if (name in (model.name, *model.aliases) if name else _speaks(model.languages, language))
        ]
        if not fitting:
            raise _unknown("model", name or f"for {language}", [model.name for model in self.recognition])
        return fitting[0]


def _recognition(entry: Mapping[str, Any]) -> OfferedRecognition:
    facts = entry["motet"]
    return OfferedRecognition(entry["id"], tuple(facts.get("aliases", ())), tuple(facts.get("languages", ())))


def _is_ready(entry: Mapping[str, Any]) -> bool:
    """Whether a model may be used: one that was loaded while the service runs may be on its way."""
    return bool(entry["motet"].get("state", "ready") == "ready")


def _named(voices: Iterable[Mapping[str, Any]], speech_models: Sequence[str]) -> Iterable[OfferedVoice]:
    """Voices under names that are unique: a later voice with the id of an earlier one has its model before its id."""
    taken = set()
    for entry in voices:
        model = entry.get("model") or next((name for name in entry.get("models", ()) if name in speech_models), None)
        if model is None:
            continue  # an uploaded voice that no model can use
        name = entry["id"] if entry["id"] not in taken else f"{model}/{entry['id']}"
        taken.add(name)
        language = entry.get("language") or ANY_LANGUAGE
        spoken = () if language == ANY_LANGUAGE else (language,)
        yield OfferedVoice(name, model, entry["id"], spoken, entry.get("name") or entry.get("description"))


def _listed(languages: Sequence[str]) -> list[str]:
    return list(languages or NAMES)


def _description(voice: OfferedVoice) -> str:
    return f"{voice.name}: {voice.description}" if voice.description else voice.name


def _speaks(languages: Sequence[str], wanted: str | None) -> bool:
    """Whether one of the languages is the wanted one, whatever the region."""
    if not languages or not wanted:
        return True
    return _primary(wanted) in map(_primary, languages)


def _primary(tag: str) -> str:
    return tag.replace("_", "-").partition("-")[0].lower()


def _unknown(what: str, name: str, known: Sequence[str]) -> MotetError:
    listed = ", ".join(known) or "none"
    return fail("not_found", f"There is no {what} {quoted(name)}.", f"Known: {listed}.", code=f"{what}_not_found")
