"""Speech by an engine in this process: a text, whole or as it is written, into a file."""

from __future__ import annotations

import time
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from select import select
from threading import Thread
from types import MappingProxyType
from typing import Any, BinaryIO

from deployments.audio.formats import AudioFormat
from deployments.engines.protocols import FinishReason, SpeechRequest, SpeechTraits, VoiceReference, first_reason
from deployments.errors import fail
from deployments.tasks.in_process_speech import speak_here
from deployments.tasks.piece_checks import PieceChecks
from deployments.tasks.piece_hearing import EngineHearing
from deployments.tasks.piece_preparation import PieceMaker, PreparedText
from deployments.tasks.piece_quality import QualitySummary
from deployments.tasks.voice_choice import choose_voice
from deployments.text.lexicon import Lexicon
from deployments.text.piece import Piece
from deployments.text.segmentation import Cutter
from deployments.text.sources import group_of
from serve_app.cli.local import STDOUT, LoadedModel, Progress, SoundWriter, load_model, sound_file
from serve_app.cli.spoken_captions import captioned
from serve_app.config import AppConfig
from serve_app.gateway.speech.pacing import ListenerClock

BY_ITSELF: FinishReason = "stop"
"""How a text ends whose pieces all ended by themselves."""
CLIPS = "voice_"
"""Begins the id of a clip that is stored as a voice."""


@dataclass(frozen=True, slots=True)
class SpokenFile:
    """What was said and how long it took. Wall and first sound count from the start of the command, and so include the import
    of libraries and the loading of the model, but not the time in which there was no text to speak."""

    output: str
    model: str
    voice: str
    hardware: str
    characters: int
    audio_seconds: float
    load_seconds: float
    wall_seconds: float
    first_sound_seconds: float
    times_real_time: float
    """Audio made per second of work after the model was loaded: cutting, speaking, encoding and writing."""
    finish_reason: FinishReason
    """Why the first piece that did not end by itself was ended; "stop" where there is none."""
    ignored: tuple[str, ...]
    """Attributes of SSML that were ignored, such as `prosody.pitch`."""
    quality: QualitySummary
    """How many pieces were checked, were made again, and still have a fault."""
    unread_scripts: str = ""
    """Scripts in the text of which the voice reads nothing, such as "Cyrillic"."""


@dataclass(frozen=True, slots=True)
class SoundChoices:
    """Where the sound goes and how it is encoded. `sample_rate` (Hz) and `loudness_lufs` may be left to the model and to the
    configuration."""

    path: Path
    form: AudioFormat
    sample_rate: int | None = None
    loudness_lufs: float | None = None

    def loudness(self, app: AppConfig) -> float | None:
        """The loudness to which speech is brought, in LUFS; None for as loud as the model makes it."""
        return app.speech.loudness_lufs if self.loudness_lufs is None else self.loudness_lufs

    def open(self, source_rate: int) -> AbstractContextManager[SoundWriter]:
        """The file for mono sound at `source_rate` Hz."""
        return sound_file(self.path, self.form, source_rate, 1, self.sample_rate)


def say(
    text: str | Iterable[str | None],
    app: AppConfig,
    sound: SoundChoices,
    progress: Progress,
    started: float,
    *,
    model: str | None = None,
    voice: str | None = None,
    speed: float = 1.0,
    seed: int = 0,
    ssml: bool = False,
    lexicon: Mapping[str, str] = MappingProxyType({}),
    normalize: bool | Mapping[str, bool] | None = None,
    captions: Path | None = None,
    verify: bool = False,
) -> SpokenFile:
    """Speaks a text into a file, piece by piece.

    A text that is still being written comes in parts, with a None where its writer pauses. Without a `model` the first
    speech model of the configuration speaks, without a `voice` the model's default voice. `started` is when the command did,
    by `perf_counter`. `captions` is a file for subtitles (`spoken_captions.WRITERS`).
    """
    loaded = load_model(app, model, "speech")
    traits, aliases = loaded.engine.traits, loaded.model.voice_aliases
    voice, reference = chosen_voice(voice, loaded, app)
    checks, sent = _checks(app, traits, sound.path, verify)
    working = time.perf_counter()
    maker = _maker(traits, voice, app, lexicon, normalize)
    source = _source(text, app, maker, aliases if ssml else None)
    first_sound, spoken_characters, reason = 0.0, 0, BY_ITSELF
    request = SpeechRequest((), voice, speed, seed, reference=reference)
    chunks = speak_here(request, loaded.engine, source, checks, sound.loudness(app))
    chunks = captioned(chunks, captions, app, traits, voice, source)
    with sound.open(traits.sample_rate) as writer, closing(chunks):
        for chunk in chunks:
            writer.write(chunk.samples)
            sent(chunk.seconds)
            if len(chunk.samples) and not first_sound:
                first_sound = time.perf_counter() - started - source.waited_seconds
            spoken_characters += len(source.pieces[chunk.index].text) if chunk.piece_over else 0
            progress(spoken_characters, source.characters)
            reason = first_reason(reason, chunk.finish_reason)
    ended, waited = time.perf_counter(), source.waited_seconds
    return SpokenFile(
        output=str(sound.path),
        model=loaded.name,
        voice=voice,
        hardware=loaded.hardware,
        characters=source.characters,
        audio_seconds=writer.seconds,
        load_seconds=loaded.load_seconds,
        wall_seconds=ended - started - waited,
        first_sound_seconds=first_sound,
        times_real_time=writer.seconds / (ended - working - waited),
        finish_reason=reason,
        ignored=source.ignored,
        quality=QualitySummary.of(checks.found),
        unread_scripts=maker.readable.scripts,
    )


def _maker(
    traits: SpeechTraits,
    voice: str,
    app: AppConfig,
    lexicon: Mapping[str, str],
    normalize: bool | Mapping[str, bool] | None,
) -> PieceMaker:
    """What cuts the text and says what is spoken of it, with the configuration's lexicon and rules."""
    words = (Lexicon(lexicon), app.speech.known_words)
    return PieceMaker(traits, voice, words, app.speech.normalize.changed(normalize))


def chosen_voice(wanted: str | None, loaded: LoadedModel, app: AppConfig) -> tuple[str, VoiceReference | None]:
    """One of the model's voices, or a clip that `motet voices` stored. Raises `MotetError`."""
    traits: SpeechTraits = loaded.engine.traits
    if wanted is not None and wanted.startswith(CLIPS):
        from serve_app.gateway.voice_store import EVERYONE, VoiceStore  # which imports a decoder

        if not traits.clones:
            cause = f"The model {loaded.name!r} does not speak like a clip."
            raise fail("unsupported", cause, "Name one of its own voices: motet voices.", param="voice")
        return wanted, VoiceStore(app.voices).reference(EVERYONE, wanted)
    return choose_voice(wanted, traits, loaded.model.voice_aliases), None


def _source(
    text: str | Iterable[str | None], app: AppConfig, maker: PieceMaker, aliases: Mapping[str, str] | None
) -> WrittenText:
    """The text; with aliases of voices, it is a document in SSML."""

    def prepared(parts: Sequence[str]) -> tuple[Piece, ...]:
        pieces = maker(parts)
        maker.refuse_unreadable()
        return pieces

    source = WrittenText(text, maker.cutter(app.speech.pieces), prepared)
    if aliases is not None:
        source.read_document(lambda document: maker.of_ssml(document, app.speech.pieces, aliases))
    return source


def _checks(
    app: AppConfig, traits: SpeechTraits, path: Path, verify: bool
) -> tuple[PieceChecks, Callable[[float], None]]:
    """The checks of a text, and a function that takes the seconds that were written. A file waits for a piece that is made
    again; standard output may be played at once."""
    listener = ListenerClock()
    played = path == STDOUT and not verify
    checks = PieceChecks(
        app.speech.quality,
        traits,
        buffered_seconds=(lambda: listener.buffered_seconds(time.monotonic())) if played else None,
        hearing=EngineHearing(load_model(app, app.speech.verify_model, "transcription").engine) if verify else None,
    )
    return checks, lambda seconds: listener.send(seconds, time.monotonic())


class WrittenText:
    """A text for `speak_here`, whole or in the parts in which it is written. It blocks while it waits for the next part."""

    def __init__(
        self,
        text: str | Iterable[str | None],
        cutter: Cutter,
        prepare: Callable[[Sequence[str]], tuple[Piece, ...]],
    ) -> None:
        self.pieces: list[Piece] = []
        self.waited_seconds = 0.0
        """How long it waited for its writer."""
        self.ignored: tuple[str, ...] = ()
        """Attributes of SSML that were ignored."""
        self._parts = iter([text] if isinstance(text, str) else text)
        self._whole = isinstance(text, str)
        self._cutter = cutter
        self._prepare = prepare
        self._ended = False

    def read_document(self, read: Callable[[str], PreparedText]) -> None:
        """Reads all of the text as one document. Waits for its end."""
        asked = time.perf_counter()
        document = "".join(part for part in self._parts if part)
        self.waited_seconds += time.perf_counter() - asked
        found = read(document)
        self.pieces, self.ignored, self._ended = list(found.pieces), found.ignored, True

    @property
    def characters(self) -> int:
        """Characters of all pieces so far."""
        return sum(len(piece.text) for piece in self.pieces)

    async def take(self, first: int, characters: float) -> tuple[Piece, ...]:
        """See `PieceSource`. Raises `MotetError` (invalid) for text that cannot be read."""
        while len(self.pieces) <= first and not self._ended:
            self._read_part()
        return group_of(self.pieces, first, characters)

    def ends_at(self, number: int) -> bool:
        """See `PieceSource`."""
        return self._ended and number >= len(self.pieces)

    def _read_part(self) -> None:
        asked = time.perf_counter()
        part: str | None = None
        try:
            part = next(self._parts)
        except StopIteration:
            self._ended = True
        finally:
            self.waited_seconds += time.perf_counter() - asked
        if self._ended:
            self._cutter.flush()
        elif part is None:
            self._cutter.flush_words()
        else:
            self._cutter.write(part)
        if self._ended or not self._whole:  # a whole text is one request
            self.pieces += self._prepare(list(self._cutter.settled()))


READ_BYTES = 64 * 1024
MAX_READS_AHEAD = 16
"""Reads that may wait to be spoken. Beyond them the writer waits."""


def read_as_it_comes(file: BinaryIO, pause_s: float) -> Iterator[str | None]:
    """A UTF-8 text in parts as it is written, with a None where no more came for `pause_s`.

    A thread reads the file from now on. Raises `MotetError` (invalid) if the text is not UTF-8 or cannot be read.
    """
    arrived: Queue[bytes | Exception] = Queue(MAX_READS_AHEAD)
    # A thread that waits inside a buffered file when the program ends brings Python down with a fatal error.
    unbuffered: Any = getattr(file, "raw", file)

    def pump() -> None:
        data: bytes | None = b"more"
        try:
            while data != b"":
                data = unbuffered.read(READ_BYTES)
                if data is None:  # nothing yet, in a file that does not wait for it
                    select([unbuffered], [], [])
                else:
                    arrived.put(data)
        except Exception as error:
            arrived.put(error)

    Thread(target=pump, daemon=True).start()
    return _decoded(arrived, pause_s)


def _decoded(arrived: Queue[bytes | Exception], pause_s: float) -> Iterator[str | None]:
    decoder = getincrementaldecoder("utf-8")()
    data, fresh = b"more", False
    while data:
        try:
            came = arrived.get(timeout=pause_s if fresh else None)
            if isinstance(came, Exception):
                remedy = "Pipe the text in, or give it on the command line."
                raise fail("invalid", f"The text cannot be read: {came}.", remedy) from came
            data, fresh = came, True
            yield decoder.decode(data, final=not data)
        except Empty:
            fresh = False
            yield None
        except UnicodeDecodeError as error:
            raise fail("invalid", f"The text is not UTF-8: {error}.", "Convert it, for example with iconv.") from error
