"""Voices that a model works out of clips: those of its folder, and those that requests bring; each once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from deployments.audio.decode import decode_all
from deployments.engines.base import Samples, SpeechRequest, SpeechTraits, Voice, VoiceReference
from deployments.errors import fail

LONGEST_CLIP_SECONDS = 60.0
VoiceT = TypeVar("VoiceT")


class ClipVoices(Generic[VoiceT]):
    """Keeps voices by the content of their clips; the one that was not used for longest goes first."""

    def __init__(self, folder: Path, listen: Callable[[Samples, int], VoiceT], *, rate: int, most: int) -> None:
        """The folder's clips are `voices/*.wav`; `listen` gets a mono clip and its rate in Hz. `most` voices are kept."""
        self._files = {file.stem: file for file in sorted((folder / "voices").glob("*.wav"))}
        self._listen = listen
        self._rate = rate
        self._most = most
        self._kept: OrderedDict[str, VoiceT] = OrderedDict()

    @property
    def names(self) -> tuple[str, ...]:
        """The folder's clips."""
        return tuple(self._files)

    def traits(self, *, most_speakers: int = 1) -> SpeechTraits:
        """Of a model that speaks with clips, at their own pace and in whatever language the text is."""
        voices = tuple(Voice(name, "und", "a clip's voice") for name in self._files)
        default = voices[0].id if voices else ""
        return SpeechTraits(self._rate, voices, default, 1.0, 1.0, clones=True, most_speakers=most_speakers)

    def of_request(self, request: SpeechRequest) -> tuple[VoiceT, ...]:
        """The voice of the request's clip, or of a clip of the folder for each speaker: `ada`, or `ada,ben`.

        Raises `MotetError` (not_found) for a voice that is not here.
        """
        if request.reference is not None:
            return (self.of_reference(request.reference),)
        names = request.voice.split(",")
        for name in names:
            if name not in self._files:
                known = ", ".join(self._files) or "none; send a clip"
                raise fail("not_found", f"There is no voice {name!r}.", f"Voices: {known}.", param="voice")
        return tuple(self.of_name(name) for name in names)

    def of_reference(self, clip: VoiceReference) -> VoiceT:
        """The voice of a request's clip."""
        return self._get(clip.id, lambda: self._listen(clip.samples, clip.sample_rate))

    def of_name(self, name: str) -> VoiceT:
        """The voice of a clip of the folder, which is one of `names`."""
        data = self._files[name].read_bytes()

        def make() -> VoiceT:
            clip = decode_all(data, self._rate, mono=True, max_seconds=LONGEST_CLIP_SECONDS)[0]
            return self._listen(clip, self._rate)

        return self._get(hashlib.sha256(data).hexdigest(), make)

    def _get(self, clip_id: str, make: Callable[[], VoiceT]) -> VoiceT:
        if clip_id not in self._kept:
            self._kept[clip_id] = make()
        self._kept.move_to_end(clip_id)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return self._kept[clip_id]
