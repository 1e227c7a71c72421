"""What a request says about the speakers of its recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from deployments.errors import fail
from deployments.tasks.diarization import MOST_SPEAKERS, KnownSpeaker, SpeakerTask
from serve_app.gateway.bodies.data_urls import FormPart, recording_in
from serve_app.gateway.fields import RequestFields

REFERENCES = "known_speaker_references"
"""The field, a list, whose values are recordings: data URLs or files."""
MOST_KNOWN_SPEAKERS = 4
"""As OpenAI documents it."""

SpeakerName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]
SpeakerCount = Annotated[int, Field(ge=1, le=MOST_SPEAKERS)]


class SpeakerFields(RequestFields):
    """The fields of a form that concern speakers, without the references."""

    foreign: ClassVar[Mapping[str, str]] = {"num_speakers": "speakers"}

    speakers: SpeakerCount | None = None
    """How many there are, if known."""
    min_speakers: SpeakerCount | None = None
    """How many there are at least."""
    max_speakers: SpeakerCount | None = None
    """How many there are at most."""
    known_speaker_names: Annotated[tuple[SpeakerName, ...], Field(max_length=MOST_KNOWN_SPEAKERS)] = ()
    """Names of speakers whose voices are in `known_speaker_references`, in the same order."""

    @property
    def speaker_settings(self) -> bool:
        """Whether the request has any of these fields."""
        return bool(self.speakers or self.min_speakers or self.max_speakers or self.known_speaker_names)


async def speaker_task(fields: SpeakerFields, references: Sequence[FormPart]) -> SpeakerTask:
    """Which speakers to look for. Reads the `references`, recordings of the known ones. Raises `MotetError` (invalid,
    too_large)."""
    names = fields.known_speaker_names
    if len(names) != len(references):
        raise fail(
            "invalid",
            f"There are {len(names)} known_speaker_names and {len(references)} {REFERENCES}.",
            "Send one reference for each name, in the same order.",
            param=REFERENCES,
        )
    known = [
        KnownSpeaker(name, await recording_in(reference, REFERENCES))
        for name, reference in zip(names, references, strict=True)
    ]
    return SpeakerTask(tuple(known), fields.speakers, fields.min_speakers, fields.max_speakers)
