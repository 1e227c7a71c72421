"""Voices that a model computes from clips, those of its folder and those of requests; each is computed once and cached."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from deployments.engines.forgotten_voices import ForgottenVoices
from deployments.engines.protocols import Samples, SpeechRequest, SpeechTraits, Voice, VoiceReference
from deployments.engines.speech import unknown_voice
from deployments.errors import MotetError, fail

logger = logging.getLogger("ray.serve")

LONGEST_CLIP_SECONDS = 60.0
VoiceT = TypeVar("VoiceT")


class ClipVoices(Generic[VoiceT]):
    """A least-recently-used cache of voices, by the content of their clips."""

    def __init__(self, folder: Path, encode: Callable[[Samples, int], VoiceT], *, rate: int, most: int) -> None:
        """The folder's clips are `voices/*.wav`. `encode` computes the voice of a mono clip and its rate in Hz. `most` voices
        are kept.

        A clip that cannot be read, or whose name cannot be used in a request, is logged and left out.
        """
        self._files = {file.stem: file for file in _clips_in(folder / "voices")}
        self._encode = encode
        self._rate = rate
        self._most = most
        self._kept: OrderedDict[str, VoiceT] = OrderedDict()
        self._forgotten = ForgottenVoices()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the folder's clips."""
        return tuple(self._files)

    def traits(self, *, most_speakers: int = 1) -> SpeechTraits:
        """The traits of a model that speaks at the clip's own pace, in the language of the text."""
        voices = tuple(Voice(name, "und", "a clip's voice") for name in self._files)
        default = voices[0].id if voices else ""
        return SpeechTraits(self._rate, voices, default, 1.0, 1.0, clones=True, most_speakers=most_speakers)

    def of_request(self, request: SpeechRequest) -> tuple[VoiceT, ...]:
        """The voice of the request's clip, or one voice of the folder for each speaker: `ada`, or `ada,ben`.

        Raises `MotetError` (not_found) for an unknown voice.
        """
        if request.reference is not None:
            return (self.of_reference(request.reference),)
        names = request.voice.split(",")
        for name in names:
            if name not in self._files:
                raise unknown_voice(name, self._files)
        return tuple(self.of_name(name) for name in names)

    def of_reference(self, clip: VoiceReference) -> VoiceT:
        """The voice of a request's clip."""
        return self._get(clip.id, lambda: self._encode(clip.samples, clip.sample_rate))

    def forget(self, clip_id: str) -> None:
        """See `KeepsVoices`."""
        self._kept.pop(clip_id, None)
        self._forgotten.add(clip_id)

    def of_name(self, name: str) -> VoiceT:
        """The voice of a clip of the folder, one of `names`.

        Raises `MotetError` (not_found) for a clip that was deleted or cannot be read any more.
        """
        try:
            data = self._files[name].read_bytes()
        except OSError as error:
            raise _lost(name, f"its clip was deleted or cannot be read ({error.strerror})") from error

        def make() -> VoiceT:
            return self._encode(self._decoded(name, data), self._rate)

        return self._get(hashlib.sha256(data).hexdigest(), make)

    def _decoded(self, name: str, data: bytes) -> Samples:
        """The clip in mono. Its errors are not_found: the client did not send this clip."""
        from deployments.audio.decode import decode_all

        try:
            samples: Samples = decode_all(data, self._rate, mono=True, max_seconds=LONGEST_CLIP_SECONDS)[0]
        except MotetError as error:
            raise _lost(name, f"its clip cannot be used ({error.failure.cause.rstrip('.')})") from error
        return samples

    def _get(self, clip_id: str, make: Callable[[], VoiceT]) -> VoiceT:
        if clip_id in self._forgotten:
            return make()
        if clip_id not in self._kept:
            self._kept[clip_id] = make()
        self._kept.move_to_end(clip_id)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return self._kept[clip_id]


def tagged_voices(names: Iterable[str], languages: Iterable[str], default: str) -> tuple[Voice, ...]:
    """The voices of a model that speaks several languages with each clip: `<name>` in the `default` language ("" means any),
    and `<name>.<language>`."""
    voices = [Voice(name, default or "und", "a clip's voice") for name in names]
    tagged = [Voice(f"{name}.{tag}", tag, "a clip's voice") for name in names for tag in languages]
    return (*voices, *tagged)


def split_language(voice: str, names: Collection[str], languages: Collection[str], default: str) -> tuple[str, str]:
    """The clip and the language of one of the `tagged_voices`. Raises `MotetError` (not_found) for another voice."""
    name, _, tag = voice.rpartition(".")
    if voice in names:
        return voice, default
    if name in names and tag in languages:
        return name, tag
    raise unknown_voice(voice, names)


def _clips_in(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() == ".wav")
    return [file for file in files if _is_usable(file)]


def _is_usable(file: Path) -> bool:
    """Reads the beginning of a clip, and logs why a clip is left out."""
    if "," in file.stem:
        logger.warning(
            "%s is not used as a voice: its name has a comma, which separates the voices of a request. Rename it.", file
        )
        return False
    from deployments.audio.decode import AudioDecoder

    try:
        with file.open("rb") as data:
            AudioDecoder(data, mono=True, max_seconds=LONGEST_CLIP_SECONDS).close()
    except (OSError, MotetError) as error:
        why = error.failure.cause if isinstance(error, MotetError) else error
        logger.warning("%s is not used as a voice: it cannot be read: %s", file, why)
        return False
    return True


def _lost(name: str, why: str) -> MotetError:
    remedy = "Use another voice, or ask the operator of this service to restore the clip."
    return fail(
        "not_found", f"The voice {name!r} is not available: {why}.", remedy, param="voice", code="voice_not_found"
    )
