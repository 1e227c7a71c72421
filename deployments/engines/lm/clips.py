"""Voices that a model works out of clips: those of its folder, and those that requests bring; each once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from deployments.audio.decode import decode_all
from deployments.engines.base import Samples, VoiceReference

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
