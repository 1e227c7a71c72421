"""What a shell completes after `--model` and `--voice`: names of the configuration, without loading a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.models import Model
    from serve_app.config import AppConfig


def model_names(config: AppConfig, incomplete: str) -> list[tuple[str, str]]:
    """The models of a configuration and their aliases that begin with `incomplete`, each with what it is."""
    return _beginning(incomplete, _models(config.models))


def voice_names(config: AppConfig, model: str | None, incomplete: str) -> list[tuple[str, str]]:
    """The voices of a model, or of all models, and the stored clips, that begin with `incomplete`."""
    return _beginning(incomplete, _voices(config, model))


def _beginning(incomplete: str, found: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [each for each in dict(found).items() if each[0].startswith(incomplete)]


def _models(models: Mapping[str, Model]) -> Iterator[tuple[str, str]]:
    for name, model in models.items():
        yield name, model.task
        for alias in model.aliases:
            yield alias, f"{model.task}, {name}"


def _voices(config: AppConfig, wanted: str | None) -> Iterator[tuple[str, str]]:
    for name, model in config.models.items():
        if wanted is None or wanted in (name, *model.aliases):
            yield from ((voice, name) for voice in sorted(set(model.voice_aliases.values())))
            yield from ((alias, f"{voice} of {name}") for alias, voice in model.voice_aliases.items())
    yield from _clips(config)


def _clips(config: AppConfig) -> Iterator[tuple[str, str]]:
    from serve_app.gateway.voice_store import EVERYONE, VoiceStore

    yield from ((clip.id, clip.name) for clip in VoiceStore(config.voices).listed(EVERYONE))
