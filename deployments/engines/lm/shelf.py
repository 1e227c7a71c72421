"""What an engine has worked out of clips, kept ready by the clips' content."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

VoiceT = TypeVar("VoiceT")


class VoiceShelf(Generic[VoiceT]):
    """The voices that were worked out, by the id of their clip; the one that was not used for longest goes first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._voices: OrderedDict[str, VoiceT] = OrderedDict()

    def get(self, clip_id: str, make: Callable[[], VoiceT]) -> VoiceT:
        """The voice of a clip, worked out when it is not here."""
        if clip_id not in self._voices:
            self._voices[clip_id] = make()
        self._voices.move_to_end(clip_id)
        while len(self._voices) > self._most:
            self._voices.popitem(last=False)
        return self._voices[clip_id]
