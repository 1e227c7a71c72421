"""`motet voices`: the voices of models, and clips that are stored as voices, here or in a running service."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import typer

from deployments.errors import MotetError, fail
from serve_app.cli.options import AsJson, Config, ModelName, Quiet, ServiceUrl, config_path
from serve_app.cli.terminal import note, show_facts, show_rows, some_of

Action = Literal["list", "add", "delete", "new-key", "encrypt"]
COLUMNS = ("voice", "models", "language", "about")


@dataclass(frozen=True, slots=True)
class ListedVoice:
    """A voice. `about` has its name or description, and its other names."""

    id: str
    models: tuple[str, ...]
    language: str
    about: str

    @property
    def row(self) -> tuple[str, ...]:
        """The cells of a table."""
        return self.id, " ".join(self.models) or "none", self.language, self.about


class Voices(Protocol):
    """Where voices are."""

    def listed(self, model: str | None) -> list[ListedVoice]:
        """The voices of one model or of all, and the stored ones."""

    def add(self, clip: Path, name: str, consent: str, text: str | None) -> dict[str, Any]:
        """Stores a clip; returns the facts of the voice."""

    def delete(self, id: str) -> None:
        """Removes a stored voice."""


def voices(
    action: Annotated[Action, typer.Argument(help="What to do.")] = "list",
    what: Annotated[
        str | None, typer.Argument(metavar="CLIP or ID", show_default=False, help="add: a recording. delete: a voice.")
    ] = None,
    name: Annotated[str | None, typer.Option(show_default="the file's name", help="add: what it is called.")] = None,
    consent: Annotated[str | None, typer.Option(help="add: the words with which the speaker agreed. Required.")] = None,
    text: Annotated[str | None, typer.Option(help="add: what the clip says, which some models need.")] = None,
    model: ModelName = None,
    service: ServiceUrl = None,
    config: Config = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List voices, store a clip as a voice, or delete one. Without --service, voices are those of this machine.

    new-key prints a key for the file that voices.keys_file names; encrypt encrypts all stored voices with its first key.

    Example: [bold]motet voices[/bold]

    Example: [bold]motet voices add ada.wav --consent "I agree that my voice reads our audiobook."[/bold]

    Example: [bold]motet voices delete voice_0123456789abcdef0123456789abcdef[/bold]
    """
    if action == "new-key":
        from serve_app.gateway.voice_encryption import new_key

        print(new_key())
        return
    if action == "encrypt":
        _encrypt(config_path(config), quiet=quiet)
        return
    place = _place(service, config_path(config))
    if action == "list":
        found = place.listed(model)
        show_rows(COLUMNS, [voice.row for voice in found], found if as_json else None)
        return
    if what is None:
        needed = "a recording" if action == "add" else "the id of a voice"
        raise typer.BadParameter(f"Name {needed}.", param_hint=f"motet voices {action}")
    if action == "delete":
        place.delete(what)
        _say(f"{what} is deleted.", quiet=quiet)
        return
    if consent is None:
        raise typer.BadParameter("Write down the words with which the speaker agreed.", param_hint="--consent")
    facts = place.add(_clip(what), name or Path(what).stem, consent, text)
    if as_json:
        show_facts(facts)
    else:
        print(facts["id"])
    _say(f"{facts['name']}: {facts['seconds']:.1f} s, stored as {facts['id']}.", quiet=quiet)


def _encrypt(file: Path | None, *, quiet: bool) -> None:
    from serve_app import config_file
    from serve_app.gateway.voice_store import VoiceStore

    count = VoiceStore(config_file.read_app(file).voices).encrypt_all()
    _say(f"Voices that are encrypted with the first key now: {count}", quiet=quiet)


def _say(line: str, *, quiet: bool) -> None:
    if not quiet:
        note(line)


def _clip(what: str) -> Path:
    if not (clip := Path(what)).is_file():
        raise typer.BadParameter(f"There is no file {what!r}.", param_hint="CLIP")
    return clip


def _place(url: str | None, file: Path | None) -> Voices:
    return ServiceVoices(url) if url else LocalVoices(file)


class ServiceVoices:
    """The voices of a running service."""

    def __init__(self, url: str) -> None:
        from serve_app.cli.service_api import ServiceApi

        self._client = ServiceApi(url)

    def listed(self, model: str | None) -> list[ListedVoice]:
        """See `Voices`."""
        found = self._client.ask("GET", "/v1/audio/voices", params={"model": model} if model else {})
        with self._client.understood():
            return [_listed(entry) for entry in found["data"]]

    def add(self, clip: Path, name: str, consent: str, text: str | None) -> dict[str, Any]:
        """See `Voices`."""
        fields = {"name": name, "consent": consent} | ({"text": text} if text else {})
        files = {"audio_sample": (clip.name, clip.read_bytes())}
        return self._client.ask("POST", "/v1/audio/voices", data=fields, files=files)

    def delete(self, id: str) -> None:
        """See `Voices`."""
        from urllib.parse import quote

        self._client.ask("DELETE", f"/v1/audio/voices/{quote(id, safe='')}")


def _listed(entry: dict[str, Any]) -> ListedVoice:
    """An entry of GET /v1/audio/voices."""
    if entry["object"] == "voice":
        about = _about(entry["description"], entry["aliases"])
        return ListedVoice(entry["id"], (entry["model"],), entry["language"], about)
    return ListedVoice(entry["id"], tuple(entry["models"]), "", f"{entry['name']}, {entry['seconds']:.1f} s")


def _about(description: str, aliases: list[str]) -> str:
    return "; ".join(filter(None, (description, f"also {some_of(aliases)}" if aliases else "")))


class LocalVoices:
    """The voices of the configuration's models in this process, and the clips of a service without keys on this machine."""

    def __init__(self, file: Path | None) -> None:
        from serve_app import config_file
        from serve_app.gateway.voice_store import VoiceStore

        self._app = config_file.read_app(file)
        self._store = VoiceStore(self._app.voices)

    def listed(self, model: str | None) -> list[ListedVoice]:
        """See `Voices`. A model that does not load here is left out with a note, unless it was named."""
        from serve_app.gateway.voice_store import EVERYONE

        found = dict(self._models(model))
        own = [voice for voices in found.values() for voice in voices.own]
        cloning = tuple(name for name, voices in found.items() if voices.clones)
        if model is not None and not cloning:
            return own
        stored = self._store.listed(EVERYONE)
        return own + [ListedVoice(voice.id, cloning, "", f"{voice.name}, {voice.seconds:.1f} s") for voice in stored]

    def _models(self, wanted: str | None) -> Iterator[tuple[str, _ModelVoices]]:
        from cluster.models import find_model

        every = [name for name, model in self._app.models.items() if model.task == "speech"]
        for name in [find_model(self._app.models, wanted, "speech")[0]] if wanted else every:
            try:
                yield name, self._voices_of(name)
            except MotetError as error:
                if wanted:
                    raise
                note(f"motet: {error}")

    def _voices_of(self, name: str) -> _ModelVoices:
        from serve_app.cli import local

        loaded = local.load_model(self._app, name, "speech")
        aliases = loaded.model.voice_aliases
        names = {
            v.id: sorted(alias for alias, own in aliases.items() if own == v.id) for v in loaded.engine.traits.voices
        }
        own = [
            ListedVoice(voice.id, (name,), voice.language, _about(voice.description, names[voice.id]))
            for voice in loaded.engine.traits.voices
        ]
        return _ModelVoices(own, loaded.engine.traits.clones)

    def add(self, clip: Path, name: str, consent: str, text: str | None) -> dict[str, Any]:
        """See `Voices`."""
        from serve_app.gateway.voice_store import EVERYONE

        return asdict(self._store.add(EVERYONE, clip.read_bytes(), *_checked(name, consent), text))

    def delete(self, id: str) -> None:
        """See `Voices`."""
        from serve_app.gateway.voice_store import EVERYONE

        self._store.delete(EVERYONE, id)


@dataclass(frozen=True, slots=True)
class _ModelVoices:
    """A model's own voices, and whether it speaks like a clip."""

    own: list[ListedVoice]
    clones: bool


def _checked(name: str, consent: str) -> tuple[str, str]:
    """The name and the consent, as the service takes them. Raises `MotetError` (invalid)."""
    from pydantic import ValidationError

    from deployments.validation import in_words
    from serve_app.gateway.voice_fields import VoiceFields

    try:
        fields = VoiceFields.model_validate({"name": name, "consent": consent})
    except ValidationError as error:
        cause = "; ".join(in_words(error, VoiceFields))
        raise fail("invalid", f"{cause}.", "Correct --name or --consent.") from error
    return fields.name, fields.consent
