"""Which of a model's voices speaks, and which speaker of a script says which piece."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from deployments.engines.protocols import SpeechTraits
from deployments.errors import MotetError, fail, quoted
from deployments.text import voice_mix
from deployments.text.speakers import Script, check_speakers


def choose_voice(wanted: str | None, traits: SpeechTraits, aliases: Mapping[str, str]) -> str:
    """The model's own name of the wanted voice; None is the default voice.

    A model that mixes takes a mixture such as `ada(2)+bo(1)`, and one with several speakers takes a voice for each, such as
    `ada,bo`. Raises `MotetError` (not_found) that lists the voices.
    """
    if wanted is None and not traits.voices:
        raise _voice_not_found("This model has no voice of its own.", traits, aliases)
    if wanted is None:
        return traits.default_voice
    if traits.mixes:
        return str(voice_mix.parse(wanted, lambda name: _own_voice(name, traits, aliases)))
    if traits.most_speakers > 1:
        return ",".join(_voices_of_speakers(wanted.split(","), traits, aliases))
    return _own_voice(wanted, traits, aliases)


def _voices_of_speakers(wanted: Sequence[str], traits: SpeechTraits, aliases: Mapping[str, str]) -> list[str]:
    if len(wanted) > traits.most_speakers:
        raise _voice_not_found(f"This model has at most {traits.most_speakers} speakers.", traits, aliases)
    return [_own_voice(name.strip(), traits, aliases) for name in wanted]


def _own_voice(wanted: str, traits: SpeechTraits, aliases: Mapping[str, str]) -> str:
    name = aliases.get(wanted, wanted)
    if name not in {voice.id for voice in traits.voices}:
        raise _voice_not_found(f"There is no voice {quoted(wanted)}.", traits, aliases)
    return name


def _voice_not_found(cause: str, traits: SpeechTraits, aliases: Mapping[str, str]) -> MotetError:
    known = [voice.id for voice in traits.voices] + sorted(aliases)
    remedies = [f"Voices: {', '.join(known)}."] if known else []
    if traits.clones:
        several = " Several speakers need clips in the model's folder." if traits.most_speakers > 1 else ""
        remedies.append(f"It speaks like a clip that you send to POST /v1/audio/voices.{several}")
    return fail("not_found", cause, " ".join(remedies), param="voice", code="voice_not_found")


def speaker_marker(traits: SpeechTraits, voice: str) -> Callable[[Sequence[str]], tuple[str, ...]]:
    """A function that takes the next pieces of a text and returns them ready for the model.

    For a model with several speakers it puts the speaker's mark before each piece, because each piece is spoken without
    those before it. It raises `MotetError` (invalid) when a speaker has no voice in `voice`.
    """
    if traits.most_speakers == 1:
        return tuple
    script, voices = Script(), voice.count(",") + 1

    def mark(pieces: Sequence[str]) -> tuple[str, ...]:
        marked = script.carry_on(pieces)
        check_speakers(marked, voices)
        return marked

    return mark
