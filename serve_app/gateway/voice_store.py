"""Uploaded voices: one file for each clip, in a folder for each owner.

The id of a voice is the hash of its audio and its text, so the same clip is the same voice, and no text of a client becomes
part of a path. A client's voices are looked up by id in its own folder only.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from deployments.audio.decode import AudioDecoder, decode_all
from deployments.audio.pcm import to_float
from deployments.audio.sound_decoder import OpenDecoder
from deployments.engines.protocols import Samples, VoiceReference
from deployments.errors import MotetError, fail, quoted
from serve_app.gateway.bodies.storage import storing
from serve_app.gateway.settings import VoiceSettings
from serve_app.gateway.voice_encryption import VoiceKeys, is_encrypted

logger = logging.getLogger("ray.serve")

EVERYONE = "everyone"
"""The owner of the uploaded voices of a service without API keys."""
SAMPLE_RATE = 24_000
"""Hz; the rate of most models that clone."""

PEAK = 0.9
SILENT_BELOW = 1e-3
"""Standard deviation of the samples, as a share of full scale. Without the mean, since a constant is silent."""
LOUDEST = 4.0
"""Times full scale; codecs overshoot by less. The decoder clips at its own, higher limit."""

_ID = re.compile(r"^voice_[0-9a-f]{32}$")

Taken = TypeVar("Taken")


@dataclass(frozen=True, slots=True)
class StoredVoice:
    """A voice as its owner described it. `text` is what the clip says, if known; `created_at` is Unix time in seconds."""

    id: str
    name: str
    consent: str
    text: str | None
    created_at: int
    seconds: float


_VOICE = TypeAdapter(StoredVoice)


class VoiceStore:
    """Reads and writes files: do not call it on the event loop. `owner` must not be a text of a client."""

    def __init__(
        self,
        settings: VoiceSettings,
        clock: Callable[[], float] = time.time,
        open_decoder: OpenDecoder = AudioDecoder,
    ) -> None:
        self._settings = settings
        self._folder = Path(settings.folder).expanduser()
        self._clock = clock
        self._open_decoder = open_decoder
        self._keys = VoiceKeys(Path(settings.keys_file)) if settings.keys_file else None
        self._writing = threading.Lock()

    def add(self, owner: str, recording: bytes, name: str, consent: str, text: str | None) -> StoredVoice:
        """Stores a clip in any format that FFmpeg reads. A clip that is stored already stays as it was described first.

        Raises `MotetError`: what decoding raises; invalid for a clip that is too short, silent, or stored with another
        consent; too_large for one that is too long and when there are too many voices; storage_full if the disk is full.
        """
        samples = self._normalised(recording)
        id = _id_of(samples, text)
        seconds = round(len(samples) / SAMPLE_RATE, 3)
        voice = StoredVoice(id, name, consent, text, int(self._clock()), seconds)
        with self._changing():
            if self._path(owner, id).exists():
                return _if_agreed(self._described(self._path(owner, id)), id, consent)
            self._refuse_when_full(owner)
            self._write(self._path(owner, id), voice, samples)
        return voice

    def listed(self, owner: str) -> list[StoredVoice]:
        """The owner's voices, oldest first. Damaged files are logged and left out."""
        files = (self._folder / owner).glob("voice_*.npz")
        found = [voice for file in files if (voice := self._described(file)) is not None]
        return sorted(found, key=lambda voice: (voice.created_at, voice.id))

    def get(self, owner: str, id: str) -> StoredVoice:
        """One voice. Raises `MotetError` (not_found), also for other owners' voices and damaged files."""
        voice = self._described(self._path(owner, id)) if self.is_id(id) else None
        if voice is None:
            raise _unknown(id)
        return voice

    def is_id(self, name: str) -> bool:
        """Whether a name has the form of an uploaded voice's id."""
        return _ID.match(name) is not None

    def has_any_owner(self, id: str) -> bool:
        """Whether a voice with this id is stored for anyone. Raises `OSError` if the folder cannot be read."""
        return self.is_id(id) and any(self._folder.glob(f"*/{id}.npz"))

    def reference(self, owner: str, id: str) -> VoiceReference:
        """The clip for an engine: float32 mono at 24 kHz. Raises as `get` does."""
        voice = self.get(owner, id)
        samples = self._taken(self._path(owner, id), _samples)
        if samples is None:
            raise _unknown(id)
        return VoiceReference(id, samples, SAMPLE_RATE, voice.text)

    def delete(self, owner: str, id: str) -> None:
        """Removes a voice, even if its file is damaged. Raises `MotetError` (not_found), also for other owners' voices."""
        if not self.is_id(id):
            raise _unknown(id)
        try:
            with self._changing():
                self._path(owner, id).unlink()
        except FileNotFoundError as error:
            raise _unknown(id) from error

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One change at a time, also among processes that share the folder: a voice that one encrypts must not come back
        after another has deleted it."""
        with self._writing:
            with storing("voices"):
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)
                yield
            finally:
                os.close(folder)

    def _path(self, owner: str, id: str) -> Path:
        return self._folder / owner / f"{id}.npz"

    def _normalised(self, recording: bytes) -> NDArray[np.int16]:
        """The clip as int16 mono at 24 kHz, with its loudest sample at `PEAK`."""
        settings = self._settings
        samples = self._decoded(recording)
        if len(samples) < settings.min_clip_s * SAMPLE_RATE:
            cause = f"The clip lasts {len(samples) / SAMPLE_RATE:.1f} s; a voice needs {settings.min_clip_s:g} s."
            raise fail("invalid", cause, "Send a longer one.", param="audio_sample", code="audio_too_short")
        _refuse_what_is_no_voice(samples)
        levelled: NDArray[np.int16] = np.rint(samples * (PEAK * 32767 / np.abs(samples).max())).astype("<i2")
        return levelled

    def _decoded(self, recording: bytes) -> Samples:
        """The clip in mono. Errors name this form's field, which is not the decoder's default."""
        try:
            longest_s = self._settings.max_clip_s
            samples: Samples = decode_all(recording, SAMPLE_RATE, True, longest_s, self._open_decoder)[0]
        except MotetError as error:
            raise MotetError(replace(error.failure, param="audio_sample")) from error
        return samples

    def _refuse_when_full(self, owner: str) -> None:
        settings = self._settings
        own = sum(1 for _ in (self._folder / owner).glob("voice_*.npz"))
        everyones = sum(1 for _ in self._folder.glob("*/voice_*.npz"))
        if own >= settings.max_voices_per_key or everyones >= settings.max_voices:
            raise fail("too_large", "There is no room for another voice.", "Delete one first.", code="too_many_voices")

    def encrypt_all(self) -> int:
        """Encrypts every voice of every owner with the first key, those that have an older one included. Returns how many
        changed. It may be interrupted, and run again. Raises `MotetError` (invalid) without keys, and storage_full.
        """
        if self._keys is None:
            raise fail(
                "invalid", "voices.keys_file is not set.", "Make a key with motet voices new-key, and name its file."
            )
        changed = 0
        for path in sorted(self._folder.glob("*/voice_*.npz")):
            with self._changing():
                try:
                    data = self._keys.renewed(path.read_bytes())
                except (OSError, ValueError) as error:
                    logger.warning("The voice in %s cannot be encrypted: %s", path, error)
                    continue
                _replace(path, data)
            changed += 1
        return changed

    def _write(self, path: Path, voice: StoredVoice, samples: NDArray[np.int16]) -> None:
        """Writes the file atomically, readable by the service's user only."""
        file = io.BytesIO()
        np.savez(file, about=np.frombuffer(json.dumps(asdict(voice)).encode(), np.uint8), samples=samples)
        data = file.getvalue()
        _replace(path, self._keys.encrypted(data) if self._keys else data)

    def _described(self, path: Path) -> StoredVoice | None:
        """The description of a voice; None if its file is gone or damaged."""
        return self._taken(path, lambda stored: _about(stored, path.stem))

    def _taken(self, path: Path, take: Callable[[Any], Taken]) -> Taken | None:
        """A part of a voice's file; None if the file is gone, or damaged, which is logged."""
        try:
            with np.load(io.BytesIO(self._read(path)), allow_pickle=False) as stored:
                return take(stored)
        except FileNotFoundError:
            return None
        except Exception as error:  # a damaged file may raise anything
            logger.warning("The voice in %s cannot be read and is left out: %s: %s", path, type(error).__name__, error)
            return None

    def _read(self, path: Path) -> bytes:
        data = path.read_bytes()
        if not is_encrypted(data):
            return data
        if self._keys is None:
            raise ValueError("it is encrypted, and voices.keys_file is not set")
        return self._keys.decrypted(data)


def _replace(path: Path, data: bytes) -> None:
    """Writes a file atomically, readable by the service's user only. Raises `MotetError` (storage_full)."""
    with storing("voices"):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(prefix=".", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # some file systems report a full disk only here
            Path(unfinished).replace(path)
        finally:
            Path(unfinished).unlink(missing_ok=True)


def _refuse_what_is_no_voice(samples: Samples) -> None:
    """Raises `MotetError` (invalid)."""
    if not np.abs(samples).max() <= LOUDEST:  # also NaN
        cause = f"The clip's samples are beyond {LOUDEST:g} times full scale."
        remedy = "Send floats between -1 and 1, or whole numbers."
        raise fail("invalid", cause, remedy, param="audio_sample", code="overloud_audio")
    edge = len(samples) // 50  # resampling rings at the start and the end of a constant
    if np.std(samples[edge : len(samples) - edge], dtype=np.float64) < SILENT_BELOW:
        cause = "The clip is silent."
        raise fail("invalid", cause, "Send one with speech.", param="audio_sample", code="silent_audio")


def _id_of(samples: NDArray[np.int16], text: str | None) -> str:
    digest = hashlib.sha256(samples.tobytes())
    digest.update(b"\0" + (text or "").encode())
    return f"voice_{digest.hexdigest()[:32]}"


def _if_agreed(kept: StoredVoice | None, id: str, consent: str) -> StoredVoice:
    """A consent is a record: another one must not replace it silently, nor one that cannot be read now."""
    if kept is None:
        cause, remedy = f"This clip is the voice {id!r} already, and its file cannot be read.", "Send it again after"
    elif kept.consent != consent:
        cause, remedy = f"This clip is the voice {id!r} already, with another consent.", "Send that consent, or first"
    else:
        return kept
    raise fail("invalid", cause, f"{remedy} DELETE /v1/audio/voices/{id}.", param="consent", code="voice_exists")


def _about(stored: Any, id: str) -> StoredVoice:
    """Raises for missing or unknown fields, other types, and a file under another name."""
    voice = _VOICE.validate_python(asdict(StoredVoice(**json.loads(stored["about"].tobytes()))))
    if voice.id != id:
        raise ValueError(f"it describes {voice.id!r}")
    return voice


def _samples(stored: Any) -> Samples:
    samples: NDArray[np.int16] = stored["samples"]
    if samples.ndim != 1 or samples.dtype != np.int16:
        raise ValueError(f"the samples are {samples.dtype} of shape {samples.shape}")
    return to_float(samples)


def _unknown(id: str) -> MotetError:
    remedy = "GET /v1/audio/voices lists yours."
    return fail("not_found", f"There is no voice {quoted(id)}.", remedy, param="voice", code="voice_not_found")
